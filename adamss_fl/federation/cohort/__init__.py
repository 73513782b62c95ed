"""Figures on all sites' training patients before training: a site's answers, and what the server makes of them."""
