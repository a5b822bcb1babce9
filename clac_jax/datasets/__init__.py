"""Data sets as random-access sequences of records, built by TFDS into array_record files."""

from clac_jax.datasets.options import TableOptions
from clac_jax.datasets.prepare import load, prepare
from clac_jax.datasets.record import DataError, Record

__all__ = ["DataError", "Record", "TableOptions", "load", "prepare"]
