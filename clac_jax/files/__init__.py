"""Safe readers for files of other programs, atomic writing, and validation of paths."""
