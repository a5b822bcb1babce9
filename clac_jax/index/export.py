"""Copies of an index in a vector database: LanceDB (extra `[lancedb]`) or Qdrant (`[qdrant]`)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from clac_jax.errors import UserError, one_line, shown
from clac_jax.files.paths import local_path
from clac_jax.index.exact import unit_rows
from clac_jax.index.items import CONTENT
from clac_jax.index.layout import ROW_GROUP
from clac_jax.index.store import Index

TARGETS = ("lancedb", "qdrant")
VECTOR, TEXT_VECTOR = "vector", "text_vector"

_STRUCTURE = frozenset(CONTENT.names) - {"text"}
_POINTS = 256  # per request to Qdrant
_CHECKSUM = "clac_jax model"


class ExportError(UserError):
    """A copy of an index cannot be written to a database."""


def export(index: Index, target: str, uri: str, name: str = "") -> int:
    """Writes a new table (LanceDB) or collection (Qdrant) with the vectors and items of an index.

    Args:
        index: the index.
        target: one of TARGETS.
        uri: the folder of a LanceDB database, or a URI that it supports ("s3://..."); or the
            URL of a Qdrant server, whose key is read from the environment variable
            QDRANT_API_KEY, or "path:FOLDER" for its embedded engine.
        name: name of the table or collection; "" takes that of the folder of the index.

    Returns:
        The number of crystals written.

    Raises:
        ExportError: the library is not installed, the table exists, or the database reports an
            error.
    """
    name = name or re.sub(r"[^\w.-]+", "_", shown(index.path.resolve()).rpartition("/")[2])
    if target not in TARGETS:
        raise ExportError(f"There is no target {target!r}. Use {' or '.join(TARGETS)}.")
    write = _to_lancedb if target == "lancedb" else _to_qdrant
    return write(index, uri, name)


def batches(index: Index) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray | None]]:
    """Blocks of rows: items, crystal vectors, and text vectors (None if there are none).

    Vectors are (rows, dim) float32 unit vectors, or zero where an item has no text.
    """
    start = 0
    texts: list[Any] = list(index.text_shards()) or [None] * len(index.vector_shards())
    for vectors, text_vectors in zip(index.vector_shards(), texts, strict=True):
        for first in range(0, len(vectors), ROW_GROUP):
            some = unit_rows(vectors[first : first + ROW_GROUP])
            others = None
            if text_vectors is not None:
                others = unit_rows(text_vectors[first : first + ROW_GROUP])
            rows = np.arange(start + first, start + first + len(some))
            yield index.take(rows), some, others
        start += len(vectors)


def _to_lancedb(index: Index, uri: str, name: str) -> int:
    try:
        import lancedb
    except ImportError as error:
        raise _not_installed("LanceDB", "lancedb") from error
    kind = pa.list_(pa.float32(), index.dim)
    fields = [*index.schema, pa.field(VECTOR, kind)]
    if index.has_texts:
        fields.append(pa.field(TEXT_VECTOR, kind))
    schema = pa.schema(fields, metadata={_CHECKSUM: index.info["model"]["checksum"]})

    def tables() -> Iterator[pa.RecordBatch]:
        for items, vectors, texts in batches(index):
            columns = [*items.columns, _lists(vectors, kind)]
            if texts is not None:
                columns.append(_lists(texts, kind))
            yield from pa.table(columns, schema=schema).to_batches()

    try:
        database = lancedb.connect(uri)
        table = database.create_table(name, tables(), schema=schema, mode="create")
        return int(table.count_rows())
    except (RuntimeError, ValueError, OSError) as error:
        raise _failed("LanceDB", uri, name, error) from error


def _to_qdrant(index: Index, uri: str, name: str) -> int:
    try:
        import qdrant_client
        from qdrant_client import models
    except ImportError as error:
        raise _not_installed("Qdrant's client", "qdrant") from error
    if uri.startswith("path:"):
        folder = local_path(
            uri.removeprefix("path:"), "The folder of Qdrant", "its engine keeps files open there"
        )
        place: dict[str, Any] = {"path": str(folder)}
    else:
        # The check of versions runs in a thread of its own and prints what fails here as well.
        place = {"url": uri, "check_compatibility": False}
        if key := os.environ.get("QDRANT_API_KEY"):
            place["api_key"] = key
    columns = [column for column in index.columns if column not in _STRUCTURE]
    parameters = models.VectorParams(size=index.dim, distance=models.Distance.COSINE)
    names = [VECTOR, *([TEXT_VECTOR] if index.has_texts else [])]
    client = None
    try:
        client = qdrant_client.QdrantClient(**place)
        if client.collection_exists(name):
            raise ValueError("it exists already")
        client.create_collection(name, vectors_config=dict.fromkeys(names, parameters))
        row = 0
        for items, vectors, texts in batches(index):
            payloads = items.select(columns).to_pylist()
            for first in range(0, len(payloads), _POINTS):
                points = []
                for k in range(first, min(first + _POINTS, len(payloads))):
                    named = {VECTOR: vectors[k].tolist()}
                    if texts is not None and texts[k].any():
                        named[TEXT_VECTOR] = texts[k].tolist()
                    points.append(models.PointStruct(id=row, vector=named, payload=payloads[k]))
                    row += 1
                client.upsert(name, points, wait=True)
        return int(client.count(name, exact=True).count)
    except Exception as error:  # of the server, of the network, of two HTTP libraries
        raise _failed("Qdrant", uri, name, error) from error
    finally:
        if client is not None:
            client.close()


def _lists(vectors: np.ndarray, kind: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel(), pa.float32()), type=kind)


def _not_installed(what: str, extra: str) -> ExportError:
    return ExportError(f'{what} is not installed: pip install "clac-jax[{extra}]".')


def _failed(what: str, uri: str, name: str, error: Exception) -> ExportError:
    return ExportError(
        f"{what} cannot write {name!r} to {one_line(uri)}: {one_line(error)}. Check that it can be "
        "reached and written, or name another table with --name."
    )
