"""Saving, keeping and restoring runs."""
