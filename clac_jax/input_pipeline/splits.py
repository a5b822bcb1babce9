"""The splits of a run: opened and limited in size, with labels and fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ml_collections
import numpy as np

from clac_jax import datasets
from clac_jax.datasets.crystal_table import CrystalTable
from clac_jax.datasets.record import DataError, Record, shortened
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEM, CRYSTAL_SYSTEMS, Labelled, label_of

SPLITS = ("train", "validation", "test")


class Splits:
    """The records of each split that a run uses.

    Attributes:
        sizes: number of examples by split name ("train", "validation", "test").
        crystals: split name -> its crystal table.
        num_unlabelled: records left out because the learned property is unknown.
    """

    def __init__(self, options: ml_collections.ConfigDict, label: str = ""):
        """Opens the data set, building it first if it does not exist.

        Args:
            options: the config group `config.dataset`.
            label: the property to learn; "": none, and no record is left out.

        Raises:
            UserError: the data cannot be used.
        """
        self._label = label
        self.num_unlabelled = 0
        self._records = {split: self._open(options, split) for split in SPLITS}
        self.sizes = {split: len(records) for split, records in self._records.items()}
        self.crystals = {
            split: CrystalTable.of(records) for split, records in self._records.items()
        }

    def __getitem__(self, split: str) -> Sequence[Record]:
        """The records of a split."""
        return self._records[split]

    def _open(self, options: ml_collections.ConfigDict, split: str) -> Sequence[Record]:
        table = datasets.TableOptions(
            options.on_bad_row, options.split_by, self._label, options.on_formula_mismatch
        )
        records = datasets.load(options.name, options.data_dir, split, options.path, table)
        if self._label:
            records = Labelled(records, self._label)
            self.num_unlabelled += records.num_dropped
        return limited(records, options.max_examples)

    def fingerprint(self, split: str) -> str:
        """A hexadecimal hash of the content and order of the examples that this run uses.

        It is the same wherever the same data are prepared. `dataset.max_examples` and the label
        change it only if they change which examples are used.
        """
        return self.crystals[split].fingerprint()

    def row_digests(self, split: str) -> np.ndarray:
        """(rows,) uint64, a hash of each example; the fingerprint is the hash of these."""
        return self.crystals[split].digest

    def train_labels(self) -> np.ndarray:
        """(examples,) float64: the labels of the training split."""
        return self._labels("train")

    def num_classes(self) -> int:
        """Number of classes of a property whose labels are 0, 1, 2, ...

        Raises:
            DataError: a label is not such an integer, or larger than all of training.
        """
        if self._label == CRYSTAL_SYSTEM:
            return len(CRYSTAL_SYSTEMS)
        labels = {split: self._labels(split) for split in SPLITS}
        count = int(labels["train"].max()) + 1
        for split, values in labels.items():
            for index in np.flatnonzero((values < 0) | (values != np.round(values)))[:1]:
                raise DataError(
                    f"The property {self._label!r} is not a class: its values are not 0, 1, 2, ... "
                    f"{self._named(split, index)} has {values[index]:g}. Set "
                    "config.property.kind=regression."
                )
            for index in np.flatnonzero(values >= count)[:1]:
                raise DataError(
                    f"{self._named(split, index)} has class {values[index]:.0f} of "
                    f"{self._label!r}, and the largest of training is {count - 1}, so no model "
                    "can learn it. Leave the example out of the data, merge its class with "
                    "another, or train on more examples."
                )
        return count

    def _labels(self, split: str) -> np.ndarray:
        return np.array([label_of(record, self._label) for record in self[split]])

    def _named(self, split: str, index: int) -> str:
        return f"Example {index} ({shortened(self[split][index].material_id)}) of {split}"


def limited(source: Sequence[Record], max_examples: int) -> Sequence[Record]:
    """The first `max_examples` records; 0 keeps all."""
    return _First(source, max_examples) if 0 < max_examples < len(source) else source


@dataclass(frozen=True)
class _First(Sequence[Record]):
    source: Sequence[Record]
    length: int

    @property
    def crystals(self) -> CrystalTable:
        """The crystal table of these records."""
        return CrystalTable.of(self.source).take(range(self.length))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.source[index]
