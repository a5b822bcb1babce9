"""Changes of a model's arrays: transforms of arrays, and growth that keeps the function."""
