"""The command line: `clac-jax`, its output, and errors of flags."""
