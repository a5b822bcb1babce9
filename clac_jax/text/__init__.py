"""Sentence splitting, tokenization and chemical formulas in text."""
