"""Evaluation of trained models: protocols, intervals, reports and comparisons."""
