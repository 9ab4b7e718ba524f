"""Measures: what the methods reach on cases with a known truth. ``p2sam benchmark`` is its command line."""
