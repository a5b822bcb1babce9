"""TFDS builder of the bundled data set; reads the parquet file next to this module."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clac_jax.datasets.builder import RecordBuilder
from clac_jax.datasets.readers import read_table
from clac_jax.datasets.rows import record_of_row
from clac_jax.datasets.split import split_by_formula
from clac_jax.datasets.spool import Spool

PARQUET = Path(__file__).parent / "materials_project_mini.parquet"


class MaterialsProjectMini(RecordBuilder):
    """6,317 ordered Materials Project crystals with DFT properties and narratives."""

    def fill(self, spool: Spool) -> np.ndarray:
        """Splits 80/10/10 by reduced formula, so that no compound is in two splits."""
        for row in read_table(PARQUET):
            record = record_of_row(row)
            spool.add(record, reduced_formula=record.crystal().formula)
        return split_by_formula(spool.facts("formula_key"))
