"""Survival statistics over sites that share sums alone: each is a site's sums, a merge with ``+``, and a public result."""
