"""Healing of a run: tells bad data from broken hardware, and goes on without a person."""
