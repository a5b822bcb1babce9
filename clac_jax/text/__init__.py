"""Texts: sentences and tokens, and the chemical formulas in them."""
