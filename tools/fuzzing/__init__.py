"""Mutations, formats with their readers, and the worker process of `tools/fuzz.py`."""
