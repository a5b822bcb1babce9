"""An index on disk, opened for reading: vectors, items, and what they were made from."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clac_jax.crystals.crystal import Crystal
from clac_jax.errors import counted, error_reason
from clac_jax.index.items import CONTENT, FACTS, schema_of
from clac_jax.index.layout import (
    CONTENTS,
    DamagedIndexError,
    IndexFolderError,
    IndexMismatchError,
    checksum_of,
    is_plain_name,
    read_sealed,
)
from clac_jax.stores.copies import local_copy

if TYPE_CHECKING:
    from clac_jax.index.query import Query
    from clac_jax.index.search import Hit, Searcher

DTYPE = np.dtype("<f2")
"""Of stored vectors: half precision, relative rounding error 2^-11 per component."""


class IdentifiedModel(Protocol):
    """The attributes of a `Model` that decide whether an index is its own."""

    name: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the variables and settings used at inference."""


class Index:
    """An index made by `clac-jax embed`, opened for reading.

    A row is one crystal, numbered from 0 over all shards. Nothing in an index is code: opening one
    from a stranger runs nothing.

    Attributes:
        path: its folder; of an index in an object store, that of its local copy.
        info: content of `index.json`: "model", "data", "options", "properties", "shards", "files".
        checksum: SHA-256 of that content, and so of everything in the index.
        count: number of crystals.
        dim: number of components of a vector.
        has_texts: whether the texts of the crystals have vectors too.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Reads `index.json` and compares the sizes of all files; `check` compares every byte.

        Raises:
            PathError: the path is not a valid name of a folder.
            StoreError: it is in an object store, and cannot be copied.
            IndexFolderError: there is no index, or its format is later than this version reads.
            DamagedIndexError: a file is missing, or differs in size from what was written.
        """
        self.path = local_copy(path, "The index")
        self.info: Mapping[str, Any] = read_sealed(self.path / CONTENTS, "an index")
        try:
            self._read_info()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DamagedIndexError(
                f"{self.path / CONTENTS} is not the table of contents of an index "
                f"({type(error).__name__}: {error}). Make the index again."
            ) from error
        for name, facts in self.files.items():
            self._check_size(name, facts["bytes"])

    def _read_info(self) -> None:
        info = self.info
        self.count = int(info["count"])
        self.dim = int(info["model"]["dim"])
        self.has_texts = bool(info["has_texts"])
        self.checksum = checksum_of(info)
        self.files: dict[str, dict[str, Any]] = dict(info["files"])
        self._shards: list[dict[str, Any]] = list(info["shards"])
        self._items: list[dict[str, Any]] = list(info["items"])
        names = [*self.files, *(shard["vectors"] for shard in self._shards)]
        names += [shard["texts"] for shard in self._shards if self.has_texts]
        names += [part["file"] for part in self._items]
        if bad := [name for name in names if not is_plain_name(name) or name not in self.files]:
            raise ValueError(f"it names a file {bad[0]!r}")
        for part in (self._shards, self._items):
            if sum(int(piece["rows"]) for piece in part) != self.count:
                raise ValueError("its counts do not add up")

    def _check_size(self, name: str, size: int) -> None:
        try:
            found = (self.path / name).stat().st_size
        except OSError as error:
            raise DamagedIndexError(
                f"{self.path / name} cannot be read: {error_reason(error)}. Restore the file, or "
                "make the index again."
            ) from error
        if found != size:
            raise DamagedIndexError(
                f"{self.path / name} has {found:,} bytes instead of {size:,}. Restore the file, or "
                "make the index again."
            )

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        model, crystals = self.info["model"], counted(self.count, "crystal")
        return f"<clac_jax.Index: {crystals}, {self.dim} dimensions, {model['name']}>"

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the items."""
        return list(self.schema.names)

    def vector_shards(self) -> list[np.memmap[Any, np.dtype[np.float16]]]:
        """The vectors of the crystals, in the order of the items; nothing is read yet.

        Returns:
            Memory maps (rows, dim) float16. The rows are unit vectors before rounding to half
            precision; normalize them after conversion to float32.

        Raises:
            DamagedIndexError: a file is not an array of this shape.
        """
        return [self._mapped(shard["vectors"], shard["rows"]) for shard in self._shards]

    def text_shards(self) -> list[np.memmap[Any, np.dtype[np.float16]]]:
        """The vectors of the texts, shaped as `vector_shards`; a row of zeros where an item has no
        text. Empty if the index has no text vectors.
        """  # noqa: D205
        if not self.has_texts:
            return []
        return [self._mapped(shard["texts"], shard["rows"]) for shard in self._shards]

    def items(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The items of all rows, in order.

        Args:
            columns: the columns to read; None reads all, with texts and structures.

        Raises:
            IndexFolderError: there is no such column.
            DamagedIndexError: a file cannot be read.
        """
        self._check_columns(columns)
        tables = [self._read(number, columns, None) for number in range(len(self._items))]
        return pa.concat_tables(tables)

    def take(
        self, rows: Sequence[int] | np.ndarray, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """The items of a few rows, in the order given; reads only the row groups they are in.

        Raises:
            IndexError: a row is out of range.
            IndexFolderError, DamagedIndexError: as for `items`.
        """
        self._check_columns(columns)
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self.count):
            raise IndexError(f"A row is out of range for an index of {self.count:,} crystals.")
        distinct, places = np.unique(wanted, return_inverse=True)
        tables, start = [], 0
        for number, part in enumerate(self._items):
            inside = distinct[(distinct >= start) & (distinct < start + part["rows"])] - start
            start += part["rows"]
            if len(inside):
                tables.append(self._read(number, columns, inside))
        if not tables:
            return self._read(0, columns, np.zeros(0, np.int64))
        return pa.concat_tables(tables).take(places)

    def crystal(self, row: int) -> Crystal:
        """The crystal of a row.

        Raises:
            IndexError: the row is out of range.
            DamagedIndexError: a file cannot be read.
        """
        (item,) = self.take([row], ["lattice", "atomic_numbers", "frac_coords"]).to_pylist()
        return Crystal.from_arrays(item["lattice"], item["atomic_numbers"], item["frac_coords"])

    def row_of(self, name: str) -> int:
        """The row of the crystal with an id.

        Raises:
            IndexFolderError: no crystal has this id.
        """
        if name not in self._rows_by_id:
            raise IndexFolderError(f"{self.path} has no crystal with the id {name!r}. Check it.")
        return self._rows_by_id[name]

    def require_model(self, model: IdentifiedModel) -> None:
        """Checks that the index was made by this model.

        Raises:
            IndexMismatchError: it was made by a different model, in another space.
        """
        own = self.info["model"]
        if model.checksum != own["checksum"]:
            raise IndexMismatchError(
                f"{self.path} was made by the model {own['name']} (step {own['step']}, checksum "
                f"{own['checksum'][:12]}), and {model.name} is another (checksum "
                f"{model.checksum[:12]}). Load that model, or make an index with this one: "
                "clac-jax embed."
            )

    def search(
        self,
        text: str | Sequence[str] | Query | None = None,
        crystal: Any = None,
        not_text: str | Sequence[str] = (),
        k: int = 10,
        where: str | None = None,
        min_score: float | None = None,
    ) -> list[Hit]:
        """The crystals that match texts, crystals, or a mixture of them, best first.

        >>> index.search("a layered oxide", not_text="lead", where="band_gap > 3")  # doctest: +SKIP

        The model is loaded at the first search, by the name that the index records; for another
        place of the same model, use `clac_jax.index.search.Searcher(index, model)`.

        Args:
            text: one description, several, or a `Query`, which has further options.
            crystal: a crystal to be similar to, or a list: files, `Crystal` objects, texts of CIFs,
                pymatgen or ASE objects, or rows of this index (int).
            not_text: one or several descriptions of what to avoid.
            k: number of hits.
            where: a condition, such as "band_gap > 3 and not has('Pb')"; it is applied first.
            min_score: the smallest score (cosine) of a hit.

        Raises:
            QueryError: there is nothing to search for, or k is out of range.
            FilterError: the condition cannot be used.
            InputError: a text or crystal cannot be embedded.
            IndexMismatchError: the model has changed since the index was made.
        """
        from clac_jax.index import search  # it searches the index that this class opens

        query = search.query_of(text, crystal, not_text)
        return self._searcher.search(query, search.Options(k, where, min_score))

    def check(self) -> list[str]:
        """Compares every byte with the checksums, and the content with `index.json`.

        Returns:
            One line per problem, naming the file; empty if there is none.
        """
        from clac_jax.index import check  # it reads the index that this class opens

        return check.problems(self)

    @functools.cached_property
    def _searcher(self) -> Searcher:
        from clac_jax.index import search

        return search.Searcher(self, search.model_of(self))

    @functools.cached_property
    def _rows_by_id(self) -> dict[str, int]:
        return {name: row for row, name in enumerate(self.items(["id"])["id"].to_pylist())}

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """Columns of the items, with their types."""
        expected = schema_of(self.info["properties"])
        for number, part in enumerate(self._items):
            with self._file(number) as file:
                found = {field.name: field.type for field in file.schema_arrow}
            wrong = [name for name in found if found[name] != _type_in(expected, name)]
            if wrong or not {*FACTS.names, *CONTENT.names} <= found.keys():
                raise DamagedIndexError(
                    f"{self.path / part['file']} has other columns than the items of an index. "
                    "Restore the file, or make the index again."
                )
        return expected

    def _check_columns(self, columns: Sequence[str] | None) -> None:
        for name in columns or ():
            if name not in self.schema.names:
                raise IndexFolderError(
                    f"{self.path} has no column {name!r}. It has {', '.join(self.columns)}."
                )

    def _file(self, number: int) -> pq.ParquetFile:
        name = self._items[number]["file"]
        try:
            file = pq.ParquetFile(self.path / name)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._damaged(name, error) from error
        if file.metadata.num_rows != self._items[number]["rows"]:
            rows = f"{file.metadata.num_rows:,} rows instead of {self._items[number]['rows']:,}"
            raise DamagedIndexError(
                f"{self.path / name} has {rows}. Restore the file, or make the index again."
            )
        return file

    def _read(
        self, number: int, columns: Sequence[str] | None, rows: np.ndarray | None
    ) -> pa.Table:
        """Columns of one file of items, with the types of all files; some rows, or all."""
        with self._file(number) as file:
            has = set(file.schema_arrow.names)
            names = list(columns) if columns is not None else self.columns
            present = [name for name in names if name in has]
            try:
                if rows is None:
                    table = file.read(columns=present)
                else:
                    table = _some_rows(file, present, rows)
            except (pa.ArrowException, OSError, ValueError) as error:
                raise self._damaged(self._items[number]["file"], error) from error
        arrays = [
            table[name] if name in has else pa.nulls(len(table), self.schema.field(name).type)
            for name in names
        ]
        return pa.table(arrays, schema=pa.schema([self.schema.field(name) for name in names]))

    def _mapped(self, name: str, rows: int) -> np.memmap[Any, np.dtype[np.float16]]:
        try:
            array = np.load(self.path / name, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(name, error) from error
        if array.shape != (rows, self.dim) or array.dtype != DTYPE or not array.flags.c_contiguous:
            raise DamagedIndexError(
                f"{self.path / name} holds {array.dtype} of the shape {array.shape} instead of "
                f"float16 of ({rows}, {self.dim}). Restore the file, or make the index again."
            )
        assert isinstance(array, np.memmap)
        return array

    def _damaged(self, name: str, error: Exception) -> DamagedIndexError:
        return DamagedIndexError(
            f"{self.path / name} cannot be read: {error_reason(error)}. Restore the file, or make "
            "the index again."
        )


def _type_in(schema: pa.Schema, name: str) -> pa.DataType | None:
    place = schema.get_field_index(name)
    return None if place < 0 else schema.field(place).type


def _some_rows(file: pq.ParquetFile, columns: list[str], rows: np.ndarray) -> pa.Table:
    """The given rows, in ascending order, from the row groups that hold them."""
    sizes = [file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)]
    ends = np.cumsum(sizes)
    groups = np.searchsorted(ends, rows, side="right")
    tables = []
    for group in np.unique(groups).tolist():
        start = int(ends[group]) - sizes[group]
        table = file.read_row_group(group, columns=columns)
        tables.append(table.take(rows[groups == group] - start))
    return pa.concat_tables(tables) if tables else file.schema_arrow.empty_table().select(columns)
