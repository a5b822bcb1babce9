"""What the TFDS builders here share: records to array_record splits, without TensorFlow."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging

from clac_jax.datasets.record import Record


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose examples are `Record`s."""

    VERSION = tfds.core.Version("1.0.0")

    notice = ""
    """What the user should know of the build."""

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
    """Random access to the records of one prepared split; picklable."""

    def __init__(self, source: Any):
        """Wraps a TFDS data source."""
        self._source = source

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: Any) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Record.from_example(self._source[int(index)])


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
