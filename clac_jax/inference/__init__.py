"""Trained models in use: loading, embedding, ranking, and publishing."""
