"""The chain of a run: a record per checkpoint that names its parent and covers all files so far."""
