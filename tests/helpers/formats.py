"""Where small runs of every checkpoint format are stored: tools/store_format.py."""

from pathlib import Path

FORMATS = Path(__file__).parents[1] / "data" / "formats"
