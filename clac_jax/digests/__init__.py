"""Digests of arrays and of batches: equal bits have equal digests, on any device and sharding."""
