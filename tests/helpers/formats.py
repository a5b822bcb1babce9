"""Paths of the stored small runs of every checkpoint format (see tools/store_format.py)."""

from pathlib import Path

FORMATS = Path(__file__).parents[1] / "data" / "formats"
