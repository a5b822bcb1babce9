"""Proofs: whether a run is what it says, by its chain of records and by computing steps again."""
