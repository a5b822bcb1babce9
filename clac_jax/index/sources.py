"""The crystals for an index, from files, folders, tables and data sets, as a stream."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from clac_jax import datasets
from clac_jax.crystals import cif, cif_file
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import CrystalError
from clac_jax.datasets import cif_folder
from clac_jax.datasets.options import TableOptions
from clac_jax.datasets.prepare import NAMES
from clac_jax.datasets.readers import SUFFIXES, read_table
from clac_jax.datasets.record import DataError, Record, is_unicode, shortened
from clac_jax.datasets.rows import record_of_row, row_name
from clac_jax.datasets.split import SPLITS
from clac_jax.errors import UserError, error_reason, warn
from clac_jax.files.paths import explain
from clac_jax.index.contents import content_of, state_of
from clac_jax.index.folders import SourceError, found_in, texts_of
from clac_jax.index.items import Item
from clac_jax.stores.copies import local_copy

_EMBEDDED = NAMES[0]

# Unforeseen errors while a crystal is read; it is then refused, with the type of the error.
_ERRORS_OF_A_ROW = (
    ArithmeticError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@dataclass(frozen=True)
class SourceOptions:
    """Options for reading sources.

    Attributes:
        data_dir: folder of the prepared data sets.
        text_source: "narratives" or "papers": the texts that the model was trained on.
        on_formula_mismatch: as in `TableOptions`.
    """

    data_dir: str | Path = "data"
    text_source: str = "narratives"
    on_formula_mismatch: str = "refuse"


@dataclass(frozen=True)
class Row:
    """One crystal of a source that has not been read yet.

    Attributes:
        source: name of the file, folder or data set.
        number: its place in that source, from 0.
        name: its id, if known.
        read: reads it; raises `UserError` if it cannot be used.
    """

    source: str
    number: int
    name: str | None
    read: Callable[[], Item]


class Source(Protocol):
    """One of the CRYSTALS of the command line."""

    name: str

    def rows(self) -> Iterator[Row]:
        """Its crystals, in a fixed order."""

    def count(self) -> int | None:
        """Number of rows; None if only reading them would tell."""

    def content(self) -> str:
        """Hash of its content, independent of where it is stored."""

    def state(self) -> str:
        """Changes whenever a file of it is written; quick to get."""


class Sources:
    """All sources of an index, in order.

    Attributes:
        given: their names as given, those of files and folders as absolute paths.
    """

    given: list[str]

    def __init__(self, crystals: Sequence[str | os.PathLike[str]], options: SourceOptions):
        """Finds the sources.

        Args:
            crystals: names of crystal files, of folders with them, of tables, or of the embedded
                data set ("materials_project_mini" or "materials_project_mini:test").
            options: how they are read.

        Raises:
            SourceError: one of them does not exist, or has no crystals.
        """
        if not crystals:
            raise SourceError("No crystals were given. Name files, folders, tables or a data set.")
        names = [os.path.expanduser(value) for value in crystals]
        self.given = [os.path.abspath(name) if os.path.exists(name) else name for name in names]
        self.all: list[Source] = []
        for value in names:
            self.all += _opened(value, options)
        self._state = self._states()

    def rows(self) -> Iterator[Row]:
        """The crystals of all sources, in order."""
        for source in self.all:
            yield from source.rows()

    def count(self) -> int | None:
        """Number of rows; None if only reading them would tell."""
        counts = [source.count() for source in self.all]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def fingerprint(self) -> str:
        """Hash of the content of all sources and their order; reads every file once."""
        digest = hashlib.sha256()
        for source in self.all:
            digest.update(f"{source.content()}\n".encode())
        return digest.hexdigest()

    def require_unchanged(self) -> None:
        """Checks that no file was written since the sources were opened.

        Raises:
            SourceError: one was, so that the index may hold some of both versions.
        """
        for source, before, now in zip(self.all, self._state, self._states(), strict=True):
            if before != now:
                raise SourceError(
                    f"{source.name} changed while it was read. Run the command again when nothing "
                    "writes to it; an index of its old content has to be made again."
                )

    def _states(self) -> list[str]:
        return [source.state() for source in self.all]


def read_row(row: Row) -> Item | str:
    """The crystal of a row, or the reason why it cannot be used."""
    try:
        item = row.read()
    except UserError as error:
        return str(error)
    except _ERRORS_OF_A_ROW as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    if not is_unicode(item.id):
        return "its name is not valid Unicode"
    return item


class _Records:
    """A split of a prepared data set."""

    def __init__(self, split: str, options: SourceOptions):
        self.name = f"{_EMBEDDED}:{split}"
        self._options = options
        self._records = datasets.load(_EMBEDDED, options.data_dir, split)

    def rows(self) -> Iterator[Row]:
        for number in range(len(self._records)):
            read = functools.partial(self._read, number)
            yield Row(self.name, number, None, read)

    def _read(self, number: int) -> Item:
        record = self._records[number]
        return _item_of_record(record, record.material_id, self._options)

    def count(self) -> int | None:
        return len(self._records)

    def content(self) -> str:
        return f"records {self._records.fingerprint}"  # type: ignore[attr-defined]

    def state(self) -> str:
        return ""  # verified by its own checksums


class _Table:
    """A table, or a folder of CIF files with the table of their texts."""

    def __init__(self, path: Path, options: SourceOptions):
        self.name = path.name
        self._path = path
        self._options = options

    def rows(self) -> Iterator[Row]:
        rows = cif_folder.rows if self._path.is_dir() else read_table
        for number, row in enumerate(rows(self._path, False)):
            yield Row(self.name, number, row_name(row), functools.partial(self._read, row, number))

    def _read(self, row: Any, number: int) -> Item:
        if self._path.is_dir():
            cif_folder.check(row)
        options = TableOptions(on_formula_mismatch=self._options.on_formula_mismatch)
        record = record_of_row(row, number, False, options)
        name = row_name(row) or f"{self._path.stem}:{number}"
        return _item_of_record(record, name, self._options)

    def count(self) -> int | None:
        if self._path.suffix.lower() != ".parquet" or self._path.is_dir():
            return None
        try:
            return int(pq.read_metadata(self._path).num_rows)
        except (pa.ArrowException, OSError, ValueError):  # reported when the rows are read
            return None

    def content(self) -> str:
        return "table " + content_of(self._files(), self._path.parent)

    def state(self) -> str:
        return state_of(self._files())

    def _files(self) -> list[Path]:
        return cif_folder.files(self._path) if self._path.is_dir() else [self._path]


class _Files:
    """Files of one crystal each."""

    def __init__(self, name: str, folder: Path, files: list[str], options: SourceOptions):
        self.name = name
        self._folder = folder
        self._names = files  # relative to the folder; there may be a million
        self._twins = cif_file.twins(files)
        self._options = options

    def rows(self) -> Iterator[Row]:
        for number, name in enumerate(self._names):
            shown = cif_file.without_ending(name)
            yield Row(self.name, number, shown, functools.partial(self._read, name, shown))

    def _read(self, name: str, shown: str) -> Item:
        path = self._folder / name
        if same := self._twins.get(shown):
            raise CrystalError(f"{' and '.join(same)} have the same id. Remove or rename one.")
        if cif_file.is_cif(name) and self._options.on_formula_mismatch == "take":
            try:
                return Item(shown, cif.read(cif_file.read_text(path)).crystal)
            except OSError as error:
                raise CrystalError(f"{path} cannot be read: {error_reason(error)}.") from error
        return Item(shown, Crystal.from_file(path))

    def count(self) -> int | None:
        return len(self._names)

    def content(self) -> str:
        return "files " + content_of((self._folder / name for name in self._names), self._folder)

    def state(self) -> str:
        return state_of(self._folder / name for name in self._names)


def _opened(name: str, options: SourceOptions) -> list[Source]:
    data_set, _, split = name.partition(":")
    if data_set in NAMES:
        return _data_set(data_set, split, options)
    path = local_copy(name, "CRYSTALS")
    try:
        if path.is_dir():
            return _of_folder(path, options)
        is_file = path.is_file()
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {explain(error)}") from error
    if not is_file:
        raise SourceError(
            f"{shortened(name, 300)} does not exist. Name a crystal file, a folder of them, a "
            f"table ({', '.join(SUFFIXES)}) or the data set {_EMBEDDED}."
        )
    if path.suffix.lower() in SUFFIXES:
        return [_Table(path, options)]
    return [_Files(path.name, path.parent, [path.name], options)]


def _data_set(name: str, split: str, options: SourceOptions) -> list[Source]:
    if name != _EMBEDDED:
        raise SourceError(
            f"The data set {name} is a file of your own. Give the path of its table instead of "
            "its name."
        )
    if split and split not in SPLITS:
        raise SourceError(
            f"{name} has no split {split!r}. Use {name}:{f', {name}:'.join(SPLITS)}, or {name} for "
            "all."
        )
    return [_Records(each, options) for each in ([split] if split else SPLITS)]


def _of_folder(folder: Path, options: SourceOptions) -> list[Source]:
    tables, crystals, deeper = found_in(folder)
    crystals, twins = cif_file.without_twins(crystals)
    unread = deeper
    if crystals:
        texts = texts_of(folder, tables, crystals)
        unread = sorted({*tables} - {*texts}) + deeper
        if texts:
            sources: list[Source] = [_Table(folder, options)]
        else:
            cif_file.warn_of_twins(folder, twins)
            sources = [_Files(folder.name or str(folder), folder, crystals, options)]
    elif tables:
        sources = [_Table(folder / name, options) for name in tables]
    else:
        raise SourceError(
            f"{folder} contains no crystals: no .cif, POSCAR or .vasp files and, outside of its "
            f"subfolders, no tables ({', '.join(SUFFIXES)}). Name a folder that does."
        )
    if unread:
        warn(
            f"{shortened(', '.join(unread), 200)} in {folder} is left out. A table of texts "
            f"({', '.join(cif_folder.TABLES)}) is read if it is next to its CIF files; to "
            "embed a table with crystals, give its own path."
        )
    return sources


def _item_of_record(record: Record, name: str, options: SourceOptions) -> Item:
    text = ""
    for source in (options.text_source, "narratives", "papers"):
        try:
            text = record.text_of(source, None)
            break
        except DataError:  # it has no text of this source
            continue
    return Item(name, record.crystal(), text, _numbers(record.properties))


def _numbers(properties: Mapping[str, float]) -> dict[str, float]:
    return {name: float(value) for name, value in properties.items()}
