"""The last step of making an index: its parts are joined to the final files."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import clac_jax
from clac_jax.datasets.bad_rows import SHOWN_ROWS, BadRow
from clac_jax.datasets.crystal_table import hash64
from clac_jax.errors import WorkdirError, counted
from clac_jax.files.atomic import replacing, write_atomically
from clac_jax.files.paths import explain
from clac_jax.index import parts
from clac_jax.index.items import property_names, schema_of
from clac_jax.index.layout import (
    CONTENTS,
    FORMAT,
    ITEMS,
    REFUSED,
    ROW_GROUP,
    BuildError,
    file_facts,
    numbered,
    sealed,
    text_file,
    vector_file,
)
from clac_jax.index.store import Index

_DONE = ".parts-done"


@dataclass
class _Joined:
    """The files written so far, and their counts."""

    shards: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    refused: int = 0
    first: list[BadRow] = field(default_factory=list)


def join(
    folder: Path, num_parts: int, plan: dict[str, Any], names: list[str], may_skip: bool
) -> None:
    """Writes the final files from the parts, `index.json` last, and removes the parts.

    Killed at any instant, it leaves the parts, or an index that is complete; an index that is added
    to stays readable.

    Args:
        folder: the folder of the index, which this process has locked.
        num_parts: number of parts, all of which exist.
        plan: the plan of the parts.
        names: the names of the sources.
        may_skip: whether rows with a repeated id are left out and listed; otherwise they raise.

    Raises:
        BuildError: ids are repeated, or there is no crystal at all.
        WorkdirError: a file cannot be written.
    """
    base = Index(folder) if plan["base"] else None
    _remove_temporary(folder)
    dropped, properties, has_texts = _survey(folder, num_parts, base)
    old: dict[str, Any] = dict(base.info) if base else {}
    all_names = property_names([*old.get("property_names", {}).values(), *properties.values()])
    if dropped and not may_skip:
        bad = [one.row for rows in dropped for one in rows.values()]
        raise BuildError(bad_rows_message(bad[:SHOWN_ROWS], len(bad)))
    number = len(base.info["data"]) if base else 0
    has_texts = plan["options"]["texts"] and (base.has_texts if base else has_texts)
    writer = _Writer(folder, plan, len(base.info["shards"]) if base else 0, has_texts)
    items, refused = numbered(ITEMS, number), numbered(REFUSED, number)
    writer.write_all(
        _good_parts(folder, num_parts, dropped), folder / items, folder / refused, properties
    )
    done = writer.joined
    if not done.count:
        for name in (items, refused):
            (folder / name).unlink()
        remove_parts(folder)
        raise BuildError(bad_rows_message(done.first, done.refused, "Correct them."))
    files = [items, refused, *(s[k] for s in done.shards for k in ("vectors", "texts") if k in s)]
    contents = {
        "format": FORMAT,
        "written_by": f"clac_jax {clac_jax.__version__}",
        "model": old.get("model", plan["model"]),
        "options": old.get("options", plan["options"]),
        "count": old.get("count", 0) + done.count,
        "has_texts": has_texts,
        "properties": sorted({*old.get("properties", ()), *properties}),
        "property_names": all_names,
        "shards": [*old.get("shards", ()), *done.shards],
        "items": [*old.get("items", ()), {"file": items, "rows": done.count}],
        "files": old.get("files", {}) | {name: file_facts(folder / name) for name in sorted(files)},
        "data": [
            *old.get("data", ()),
            {
                "names": names,
                "fingerprint": plan["fingerprint"],
                "count": done.count,
                "refused": done.refused,
                "refused_in": refused,
                "base": plan["base"],
            },
        ],
    }
    write_atomically(folder / CONTENTS, sealed(contents))
    remove_parts(folder)


def remove_parts(folder: Path) -> None:
    """Removes the parts of an index; a rename comes first, so that none is half gone.

    Raises:
        WorkdirError: they cannot be removed.
    """
    done = folder / _DONE
    try:
        if done.exists():
            shutil.rmtree(done)
        if parts.folder_of(folder).exists():
            parts.folder_of(folder).rename(done)
            shutil.rmtree(done)
    except OSError as error:
        raise WorkdirError(
            f"The parts of the index {folder} cannot be removed: {explain(error)}"
        ) from error


def bad_rows_message(
    first: list[BadRow], count: int, advice: str = "Fix them, or skip them with --on_bad=skip."
) -> str:
    """The message for crystals that cannot be used.

    Args:
        first: the first of them.
        count: number of all.
        advice: what to do.
    """
    listed = "".join(f"\n  {row}" for row in first)
    more = f"\n  and {count - len(first):,} more" if count > len(first) else ""
    return f"{counted(count, 'crystal')} cannot be used:{listed}{more}\n{advice}"


def _survey(
    folder: Path, num_parts: int, base: Index | None
) -> tuple[list[dict[int, parts.Refused]], dict[str, str], bool]:
    """Looks through all parts.

    Returns:
        For each part, row of its table -> refusal for a repeated id (an empty list if there are
        none at all); column -> name of the properties; whether any item has the vector of a text.
    """
    names: set[str] = set()
    has_texts = False
    hashes = []
    for number in range(num_parts):
        part = parts.read(parts.path_of(folder, number))
        table = part.table
        names.update(part.names)
        has_texts = has_texts or table[parts.TEXT_VECTOR].null_count < len(table)
        hashes.append(_hashes(table["id"]))
    old = _hashes(base.items(["id"])["id"]) if base else np.zeros(0, np.uint64)
    values, counts = np.unique(np.concatenate([old, *hashes]), return_counts=True)
    suspects = values[counts > 1]
    dropped: list[dict[int, parts.Refused]] = []
    if len(suspects):
        dropped = _repeated(folder, [np.isin(each, suspects) for each in hashes], base)
    return (dropped if any(dropped) else []), property_names(names), has_texts


def _repeated(
    folder: Path, suspect: list[np.ndarray], base: Index | None
) -> list[dict[int, parts.Refused]]:
    """The rows whose id was used before, among those whose hash was."""
    known = {name: f"a crystal of {folder}" for name in _all_ids(base)}
    dropped: list[dict[int, parts.Refused]] = []
    for number, rows in enumerate(suspect):
        dropped.append({})
        if not rows.any():
            continue
        columns = ["id", parts.PLACE, parts.SOURCE, parts.ROW]
        table = parts.read(parts.path_of(folder, number), columns).table
        for row in np.flatnonzero(rows).tolist():
            name, place, source, at = (table[column][row].as_py() for column in columns)
            if name in known:
                dropped[-1][row] = parts.repeated(place, source, at, name, known[name])
            else:
                known[name] = f"{source} row {at}"
    return dropped


def _good_parts(
    folder: Path, num_parts: int, dropped: list[dict[int, parts.Refused]]
) -> Iterator[parts.Part]:
    for number in range(num_parts):
        part = parts.read(parts.path_of(folder, number))
        without = dropped[number] if dropped else {}
        if without:
            keep = np.setdiff1d(np.arange(len(part.table)), list(without))
            refused = sorted([*part.refused, *without.values()], key=lambda one: one.place)
            part = parts.Part(part.table.take(keep), refused)
        yield part


class _Writer:
    """Writes shards, items and refused rows of all parts, with one shard in memory."""

    def __init__(self, folder: Path, plan: dict[str, Any], first: int, has_texts: bool):
        self.joined = _Joined()
        self._folder = folder
        self._rows = plan["options"]["shard_rows"]
        self._dim = plan["model"]["dim"]
        self._first = first  # number of the first shard
        self._columns = [parts.VECTOR, *([parts.TEXT_VECTOR] if has_texts else [])]
        self._waiting: dict[str, list[np.ndarray]] = {column: [] for column in self._columns}

    def write_all(
        self, good: Iterator[parts.Part], items: Path, refused: Path, properties: Iterable[str]
    ) -> None:
        """Writes all files but `index.json`.

        Raises:
            WorkdirError: a file cannot be written.
        """
        schema = schema_of(properties)
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(replacing(items))
            notes = open(stack.enter_context(replacing(refused)), "wb")  # noqa: SIM115
            stack.enter_context(notes)
            table_writer = _ItemsWriter(temporary, schema)
            stack.enter_context(contextlib.closing(table_writer))
            for part in good:
                for one in part.refused:
                    notes.write(json.dumps(asdict(one.row)).encode() + b"\n")
                self.joined.refused += len(part.refused)
                left = SHOWN_ROWS - len(self.joined.first)
                self.joined.first += [one.row for one in part.refused[:left]]
                self.joined.count += len(part.table)
                table_writer.write(part.table)
                for column in self._columns:
                    vectors = parts.vectors_of(part.table, column, self._dim)
                    self._waiting[column].append(vectors)
                self._write_shards(self._rows)
            self._write_shards(1)

    def _write_shards(self, least: int) -> None:
        """Writes shards while at least this many rows are waiting."""
        waiting = {column: np.concatenate(v) for column, v in self._waiting.items() if v}
        while waiting and len(waiting[parts.VECTOR]) >= least:
            number = self._first + len(self.joined.shards)
            shard: dict[str, Any] = {"rows": min(self._rows, len(waiting[parts.VECTOR]))}
            for column, key, name in (
                (parts.VECTOR, "vectors", vector_file(number)),
                (parts.TEXT_VECTOR, "texts", text_file(number)),
            ):
                if column in waiting:
                    with replacing(self._folder / name) as temporary:
                        np.save(temporary, waiting[column][: self._rows], allow_pickle=False)
                    shard[key] = name
                    waiting[column] = waiting[column][self._rows :]
            self.joined.shards.append(shard)
        self._waiting = {column: [rest] for column, rest in waiting.items()}


class _ItemsWriter:
    """Writes items in row groups of a fixed size, whatever the sizes of the parts are."""

    def __init__(self, path: Path, schema: pa.Schema):
        self._schema = schema
        self._file = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)
        self._waiting = schema.empty_table()

    def write(self, table: pa.Table) -> None:
        """Adds the rows of a part; columns that it lacks are null."""
        arrays = [
            table[column.name]
            if column.name in table.column_names
            else pa.nulls(len(table), column.type)
            for column in self._schema
        ]
        self._waiting = pa.concat_tables([self._waiting, pa.table(arrays, schema=self._schema)])
        while len(self._waiting) >= ROW_GROUP:
            self._write_group(ROW_GROUP)

    def close(self) -> None:
        """Writes what is waiting, and the end of the file."""
        if len(self._waiting):
            self._write_group(len(self._waiting))
        self._file.close()

    def _write_group(self, rows: int) -> None:
        # In one chunk, so that the pages do not depend on the parts.
        self._file.write_table(self._waiting.slice(0, rows).combine_chunks(), row_group_size=rows)
        self._waiting = self._waiting.slice(rows)


def _remove_temporary(folder: Path) -> None:
    """Removes files that a killed process left half written."""
    for pattern in (".*.tmp*", ".write_probe.*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _hashes(ids: pa.ChunkedArray) -> np.ndarray:
    return np.array([hash64(name.encode()) for name in ids.to_pylist()], np.uint64)


def _all_ids(base: Index | None) -> list[str]:
    return base.items(["id"])["id"].to_pylist() if base else []
