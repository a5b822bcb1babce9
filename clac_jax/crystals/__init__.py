"""Crystals: read from files and tables, checked, made into graphs, and displaced for views."""
