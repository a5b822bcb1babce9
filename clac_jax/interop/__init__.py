"""Runs of the PyTorch release, read without PyTorch."""
