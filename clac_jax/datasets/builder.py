"""Base of the TFDS builders: writes and reads array_record splits without TensorFlow."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import operator
import os
import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from absl import logging as absl_logging
from array_record.python.array_record_module import ArrayRecordWriter
from google.protobuf.json_format import ParseError
from google.protobuf.message import DecodeError
from tensorflow_datasets.core.utils import shard_utils

from clac_jax.datasets import crystal_table, manifest
from clac_jax.datasets.record import DataError, Record
from clac_jax.datasets.split import SPLITS
from clac_jax.datasets.spool import Spool

FORMAT = "1.2.0"
"""Version of the prepared files; changing it rebuilds every data set."""

LEFT_OUT = -1
"""Split index of a record that is not stored."""

# Errors that the libraries raise for a damaged data set.
_DAMAGE = (
    AssertionError,
    AttributeError,
    DecodeError,
    LookupError,
    OSError,
    ParseError,
    RuntimeError,
    TypeError,
    ValueError,
)
# Number of threads that array_record starts with its first reader.
_READER_THREADS = 65
_MALLOC_ARENA_BYTES = 64 << 20


class RecordBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A TFDS builder whose examples are `Record`s.

    The splits are written in the same order and to the same shards as by TFDS, but via a file
    instead of memory: TFDS itself would need TensorFlow for more than 1,000 MiB.

    Attributes:
        tables: split -> its crystal table, once written.
        notices: lines for the user about skipped rows.
    """

    VERSION = tfds.core.Version(FORMAT)

    def __init__(self, *, data_dir: str | Path, **kwargs: Any):
        """Opens the data set in `data_dir`, which need not exist yet."""
        super().__init__(data_dir=str(data_dir), file_format="array_record", **kwargs)
        self.tables: dict[str, crystal_table.CrystalTable] = {}
        self.notices: list[str] = []

    def fill(self, spool: Spool) -> np.ndarray:
        """Adds the records to a spool.

        Returns:
            (num_records,) int8 index into SPLITS of each record, or LEFT_OUT.
        """
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

    def _download_and_prepare(self, dl_manager: Any, download_config: Any = None) -> None:
        """Writes all splits; overrides the method of TFDS."""
        del dl_manager, download_config  # nothing is downloaded
        with Spool(Path(self.data_dir), self.info.features.serialize_example) as spool:
            splits = self.fill(spool)
            written = [
                self._write_split(name, spool, np.flatnonzero(splits == place))
                for place, name in enumerate(SPLITS)
            ]
        self.info.set_splits(tfds.core.SplitDict(written))

    def _write_split(self, name: str, spool: Spool, places: np.ndarray) -> tfds.core.SplitInfo:
        order = spool.tfds_order(name, places)
        size = spool.num_bytes(order)
        count = shard_utils.ShardConfig().get_number_shards(size, len(order))
        ends = shard_utils.get_shard_boundaries(len(order), count)
        template = self._get_filename_template(split_name=name)
        for shard, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
            path = template.sharded_filepath(shard_index=shard, num_shards=count)
            _write_shard(os.fspath(path), map(spool.read, order[first:last].tolist()))
        self.tables[name] = spool.table(order)
        lengths = np.diff(ends, prepend=0).tolist()
        return tfds.core.SplitInfo(
            name=name, shard_lengths=lengths, num_bytes=size, filename_template=template
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        """Abstract in TFDS, but not used: `_download_and_prepare` writes the splits."""
        return {}

    def _generate_examples(self) -> None:
        """Abstract in TFDS, but not used; see `_split_generators`."""


def _write_shard(path: str, records: Iterator[bytes]) -> None:
    """Writes one array_record file.

    Raises:
        OSError: the file cannot be written.
    """
    # One record per group, as in TFDS, so that each can be read without others.
    try:
        writer = ArrayRecordWriter(path, "group_size:1")
        for record in records:
            writer.write(record)
        writer.close()
    except RuntimeError as error:  # the message of a C++ status, followed by the path and more
        reason = str(error).split(";")[0]
        raise OSError(f"{Path(path).name}: {reason}") from error


class RecordSource(Sequence[Record]):
    """Random access to the records of one prepared split; picklable.

    Attributes:
        crystals: crystal table of the split.
    """

    def __init__(self, source: Any, crystals: crystal_table.CrystalTable, folder: Path):
        """Wraps a TFDS data source.

        Args:
            source: the TFDS data source.
            crystals: crystal table of the split.
            folder: folder of the prepared data set, for messages.
        """
        self._source = source
        self._folder = folder
        self.crystals = crystals

    @property
    def fingerprint(self) -> str:
        """Hash of the content and order of all records, 32 hexadecimal digits."""
        return self.crystals.fingerprint()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Record:  # type: ignore[override]  # no slices
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"Record {place} is out of range for a split of {len(self)} records.")
        place %= len(self)
        try:
            example = self._source[place]
            if not isinstance(example["rest"], str | bytes):
                raise ValueError("it is empty: the file is truncated")
            return Record.from_example(example)
        except _DAMAGE as error:
            reason = f"record {place} of {self._source.split} cannot be read ({_first_line(error)})"
            raise manifest.damaged(self._folder, reason) from error


def open_split(
    make_builder: Callable[[Path], RecordBuilder], folder: Path, split: str
) -> RecordSource:
    """Opens a split of a prepared data set for random access.

    Args:
        make_builder: creates the builder of the data set for a folder.
        folder: folder of the prepared data set.
        split: one of SPLITS.

    Raises:
        DataError: the split does not exist, its files are missing or damaged, or the limit on
            address space is too low to read them.
    """
    if split not in SPLITS:
        raise DataError(f"Unknown split {split!r}. Use one of {', '.join(SPLITS)}.")
    check_address_space()
    manifest.check(folder, split, SPLITS)
    try:
        with quiet():
            builder = make_builder(folder)
            # TFDS wraps the method in a decorator whose types say that it takes nothing.
            stored = builder.as_data_source(split=split)  # type: ignore[arg-type]
        source = RecordSource(stored, crystal_table.read(folder, split), folder)
        if len(source.crystals.atoms) != len(source):
            raise ValueError(f"{crystal_table.FILE} does not match the records")
    except DataError:
        raise
    except _DAMAGE as error:
        raise manifest.damaged(folder, _first_line(error)) from error
    _ = source[0]  # files are opened at the first read
    return source


@functools.cache  # the threads are started once and serve all readers
def check_address_space() -> None:
    """Checks that the limit on address space (`ulimit -v`) suffices for array_record's reader.

    Below what it reserves, its threads cannot start, and it hangs or crashes.

    Raises:
        DataError: the limit is too low.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    stack, _ = resource.getrlimit(resource.RLIMIT_STACK)
    stack = 8 << 20 if stack == resource.RLIM_INFINITY else stack
    arenas = min(_READER_THREADS, 8 * (os.cpu_count() or 1))  # glibc's rule
    needed = _READER_THREADS * stack + arenas * _MALLOC_ARENA_BYTES
    used = _address_space_in_use()
    if limit - used < needed:
        raise DataError(
            f"This process may use {limit / 2**30:.1f} GiB of address space (ulimit -v) and has "
            f"taken {used / 2**30:.1f} GiB; reading records reserves {needed / 2**30:.1f} GiB. "
            "Raise that limit, or limit memory in a different way."
        )


def _address_space_in_use() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not Linux
        return 0


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses the progress bars and log messages of TFDS, which do not help the user."""
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


def _first_line(error: Exception) -> str:
    """The first line of the message of an error, or its type."""
    first_line = str(error).strip().split("\n")[0]
    return first_line or type(error).__name__
