"""Import of runs of the PyTorch release, without PyTorch."""
