"""The parts of `tools/fuzz.py`: mutations, formats with their readers, and the worker process."""
