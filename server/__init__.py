"""Flower ServerApp: turns Flower's Grid into the Sites that the federation's rounds drive."""
