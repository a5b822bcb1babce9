"""TFDS builder of the embedded data set, from the parquet beside this file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clac_jax.datasets.builder import RecordBuilder
from clac_jax.datasets.record import Record
from clac_jax.datasets.rows import read_table, record_of_row
from clac_jax.datasets.split import SPLITS, split_by_formula

PARQUET = Path(__file__).parent / "materials_project_mini.parquet"


class MaterialsProjectMini(RecordBuilder):
    """6,317 ordered crystals of the Materials Project with DFT properties and narratives."""

    def records(self) -> dict[str, Iterable[Record]]:
        """80/10/10 by reduced formula, so that no compound is on two sides."""
        records = [record_of_row(row) for row in read_table(PARQUET)]
        sides = split_by_formula([record.crystal().formula for record in records])
        return {
            split: [r for r, side in zip(records, sides, strict=True) if side == split]
            for split in SPLITS
        }
