"""Figures on all sites' test patients: outcomes kept at each site, queries on them, and what the server makes of it."""
