"""The command line `clac-jax`: commands, output, and errors in flags."""
