"""Survival statistics over sites that share sums alone: each with a site's sums, their merge, and a public result."""
