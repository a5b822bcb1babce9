"""Searches of an index over HTTP: `clac-jax serve`."""
