"""What the TFDS builders here share: records to array_record splits, without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import logging
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from google.protobuf.json_format import ParseError

from clac_jax.datasets import crystal_table
from clac_jax.datasets.record import DataError, Record
from clac_jax.datasets.split import SPLITS

FORMAT = "1.1.0"
"""Of the prepared files; with another one every data set is built anew."""


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose examples are `Record`s."""

    VERSION = tfds.core.Version(FORMAT)

    def __init__(self, *, data_dir: str | Path, **kwargs: Any):
        """Opens the data set in `data_dir`, which need not exist yet."""
        super().__init__(data_dir=str(data_dir), file_format="array_record", **kwargs)

    def records(self) -> dict[str, Iterable[Record]]:
        """The records of each split."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=(self.__doc__ or "").strip(),
            features=tfds.features.FeaturesDict(
                {
                    "material_id": tfds.features.Text(),
                    "lattice": tfds.features.Tensor(shape=(3, 3), dtype=np.float64),
                    "atomic_numbers": tfds.features.Tensor(shape=(None,), dtype=np.int32),
                    "positions": tfds.features.Tensor(shape=(None, 3), dtype=np.float64),
                    "rest": tfds.features.Text(),
                }
            ),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[str, dict]]]:
        del dl_manager  # nothing is downloaded
        return {split: _examples(records) for split, records in self.records().items()}

    def _generate_examples(self) -> None:
        """Abstract in TFDS; the splits carry their own generators here."""


class RecordSource(Sequence[Record]):
    """Random access to the records of one prepared split; picklable.

    Attributes:
        crystals: the table of its crystals; None while the data set is built.
    """

    def __init__(self, source: Any, crystals: crystal_table.CrystalTable | None = None):
        """Wraps a TFDS data source."""
        self._source = source
        self.crystals = crystals

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"There is no record {place} in a split of {len(self)}.")
        return Record.from_example(self._source[place % len(self)])


def open_split(
    make_builder: Callable[[Path], RecordBuilder], folder: Path, split: str
) -> RecordSource:
    """Random access to a split of a prepared data set.

    Args:
        make_builder: the builder of the data set, given the folder.
        folder: of the prepared data set.
        split: one of SPLITS.

    Raises:
        DataError: there is no such split, or its files are missing or damaged.
    """
    if split not in SPLITS:
        raise DataError(f"There is no split {split!r}. Use one of {', '.join(SPLITS)}.")
    try:
        with quiet():
            stored = make_builder(folder).as_data_source(split=split)
        source = RecordSource(stored, crystal_table.read(folder, split))
        _ = source[0]  # files are opened at the first read
        if len(source.crystals.atoms) != len(source):
            raise ValueError(f"{crystal_table.FILE} is of other data")
    except (AssertionError, LookupError, OSError, RuntimeError, ValueError, ParseError) as error:
        raise DataError(
            f"The prepared data set in {folder} is damaged: {error}. Remove the folder; it is "
            "built anew."
        ) from error
    return source


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without TFDS's progress bars and notices, which tell a user nothing."""
    tfds.disable_progress_bar()
    verbosity = absl_logging.get_verbosity()
    absl_logging.set_verbosity(absl_logging.ERROR)
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(previous)
        absl_logging.set_verbosity(verbosity)


def _examples(records: Iterable[Record]) -> Iterator[tuple[str, dict[str, Any]]]:
    for record in records:
        yield record.material_id, record.to_example()
