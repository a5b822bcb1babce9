"""Healing of a run: tells bad data from broken hardware, and continues without a person."""
