"""Data sets: random-access sequences of records in array_record files built by TFDS."""

from clac_jax.datasets.options import TableOptions
from clac_jax.datasets.prepare import load, prepare
from clac_jax.datasets.record import DataError, Record

__all__ = ["DataError", "Record", "TableOptions", "load", "prepare"]
