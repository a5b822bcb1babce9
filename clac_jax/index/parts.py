"""Parts of an index that is being made: one file each, which depends on its own rows only."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clac_jax.datasets.bad_rows import BadRow, bad_row
from clac_jax.errors import error_reason
from clac_jax.files.atomic import write_atomically
from clac_jax.index.items import Item, names_in, table_of
from clac_jax.index.layout import PARTS, DamagedIndexError
from clac_jax.index.plan import EmbeddingModel
from clac_jax.index.sources import Row, read_row
from clac_jax.index.store import DTYPE

PLAN = "plan.json"

# Columns of a part that are not stored in the items; no property has a column with a space.
PLACE, SOURCE, ROW = "place in part", "source of row", "row in source"
VECTOR, TEXT_VECTOR = "crystal vector", "text vector"
_REFUSED, _NAMES = b"refused", b"names"
_DIGEST_BYTES = hashlib.sha256().digest_size


class EarlierPartError(DamagedIndexError):
    """A part is intact, but was written by an earlier version, and cannot be used."""


@dataclass(frozen=True)
class Refused:
    """A row that is not in the index: its place in the part, and why."""

    place: int
    row: BadRow


@dataclass(frozen=True)
class Part:
    """The good rows of a part, with their vectors, and the refused ones.

    Attributes:
        table: the good rows.
        refused: the others.
        names: names of the properties in the data.
    """

    table: pa.Table
    refused: list[Refused]
    names: list[str] = field(default_factory=list)


def folder_of(index: Path) -> Path:
    """The folder of the parts of an index."""
    return index / PARTS


def path_of(index: Path, number: int) -> Path:
    """Path of a part."""
    return folder_of(index) / f"{number:06d}.part"


def read_rows(rows: Sequence[Row]) -> tuple[list[tuple[int, Item]], list[Refused]]:
    """Reads the crystals of a part.

    Returns:
        (place in the part, item) of each crystal that can be used; and the other rows.
    """
    good: list[tuple[int, Item]] = []
    refused = []
    for place, row in enumerate(rows):
        item = read_row(row)
        if isinstance(item, str):
            refused.append(_refused(place, row, row.name, item))
        else:
            good.append((place, item))
    return good, refused


def embed_part(
    model: EmbeddingModel,
    rows: Sequence[Row],
    items: Sequence[tuple[int, Item]],
    refused: Iterable[Refused],
    with_texts: bool,
) -> Part:
    """Computes the vectors of a part.

    Args:
        model: the model.
        rows: all rows of the part.
        items: place in the part and item of each row that can be used.
        refused: the other rows.
        with_texts: whether the texts are embedded too.

    Returns:
        The part, whose vectors are the same whatever else is embedded by the process.
    """
    vectors = _crystal_vectors(model, [item for _, item in items])
    texts = _text_vectors(model, [item for _, item in items]) if with_texts else {}
    bad = ~np.isfinite(vectors).all(axis=1)
    reasons = {int(k): "the model gives no finite vector for it" for k in np.flatnonzero(bad)}
    for k, vector in texts.items():
        if not np.isfinite(vector).all():
            reasons.setdefault(k, "the model gives no finite vector for its text")
    kept = [k for k in range(len(items)) if k not in reasons]
    refused = [*refused]
    for k, reason in reasons.items():
        place, item = items[k]
        refused.append(_refused(place, rows[place], item.id, reason))
    table = table_of([items[k][1] for k in kept])
    places = [items[k][0] for k in kept]
    internal = {
        PLACE: pa.array(places, pa.int32()),
        SOURCE: pa.array([rows[place].source for place in places], pa.string()),
        ROW: pa.array([rows[place].number for place in places], pa.int64()),
        VECTOR: _packed([vectors[k] for k in kept], model.dim),
        TEXT_VECTOR: _packed([texts.get(k) for k in kept], model.dim),
    }
    for name, column in internal.items():
        table = table.append_column(name, column)
    names = sorted(names_in(items[k][1] for k in kept))
    return Part(table, sorted(refused, key=lambda one: one.place), names)


def write(path: Path, part: Part) -> None:
    """Writes a part atomically: a parquet file, followed by its SHA-256.

    Raises:
        WorkdirError: it cannot be written.
    """
    refused = json.dumps([[one.place, asdict(one.row)] for one in part.refused])
    facts = {_REFUSED: refused.encode(), _NAMES: json.dumps(part.names).encode()}
    table = part.table.replace_schema_metadata(facts)
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    write_atomically(path, content + hashlib.sha256(content).digest())


def read(path: Path, columns: Sequence[str] | None = None) -> Part:
    """Reads a part, or some of its columns.

    Raises:
        EarlierPartError: it was written by an earlier version.
        DamagedIndexError: it is missing or damaged.
    """
    try:
        data = path.read_bytes()
        content, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != digest:
            raise ValueError("its checksum does not match")
        with pq.ParquetFile(io.BytesIO(content)) as file:
            table = file.read(columns=list(columns) if columns is not None else None)
            facts = file.schema_arrow.metadata
        if _NAMES not in facts:  # its columns do not say how the data spell the properties
            raise EarlierPartError(
                f"{path} was written by an earlier version. Delete it, and run the command again."
            )
        refused = [Refused(int(place), BadRow(**row)) for place, row in json.loads(facts[_REFUSED])]
        return Part(table, refused, json.loads(facts[_NAMES]))
    except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
        raise DamagedIndexError(
            f"{path} cannot be read ({error_reason(error)}). Delete it, and run the command again."
        ) from error


def vectors_of(table: pa.Table, column: str, dim: int) -> np.ndarray:
    """(rows, dim) float16: the vectors of a column; zeros where there is none."""
    rows = [value or bytes(dim * DTYPE.itemsize) for value in table[column].to_pylist()]
    return np.frombuffer(b"".join(rows), DTYPE).reshape(len(rows), dim)


def repeated(place: int, source: str, row: int, name: str, first: str) -> Refused:
    """The refusal of a row whose id was used before.

    Args:
        place: its place in the part.
        source: its source.
        row: its place in the source.
        name: its id.
        first: where the id was used before.
    """
    return Refused(place, bad_row(source, row, name, f"its id is also that of {first}"))


def _refused(place: int, row: Row, name: str | None, reason: str) -> Refused:
    return Refused(place, bad_row(row.source, row.number, name, reason))


def _crystal_vectors(model: EmbeddingModel, items: Sequence[Item]) -> np.ndarray:
    if not items:
        return np.zeros((0, model.dim), np.float32)
    crystals = [item.crystal for item in items]
    return np.asarray(model.embed_crystals(crystals, on_bad="nan", progress=False))


def _text_vectors(model: EmbeddingModel, items: Sequence[Item]) -> dict[int, np.ndarray]:
    """Place among the items -> vector of its text, for those with a text."""
    places = [k for k, item in enumerate(items) if item.text.strip()]
    if not places:
        return {}
    vectors = model.embed_texts([items[k].text for k in places], progress=False)
    return dict(zip(places, vectors, strict=True))


def _packed(vectors: Sequence[np.ndarray | None], dim: int) -> Any:
    values = [None if v is None else np.asarray(v, DTYPE).tobytes() for v in vectors]
    return pa.array(values, pa.binary(dim * DTYPE.itemsize))
