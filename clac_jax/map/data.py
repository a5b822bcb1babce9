"""The content of a map, read from an index: positions, colours, texts, structures, vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clac_jax.errors import one_line
from clac_jax.index.exact import unit_rows
from clac_jax.index.store import Index
from clac_jax.map.columns import OWN_RANK, SIMILARITY, Column, columns_of, number
from clac_jax.map.layout import Layout, MapError, lay_out
from clac_jax.text.sentences import split_sentences

MAX_DETAILED = 100_000
"""A larger map has positions, names and colours only: a page with more would be too large."""
_QUERIES = 512  # texts ranked at a time
_STRUCTURE = ("lattice", "atomic_numbers", "frac_coords")


@dataclass(frozen=True)
class MapData:
    """All of a map.

    Attributes:
        provenance: what the map was made of: model, checksum, step, data, seed.
        ids: (N) names of the crystals.
        formulas: (N) reduced formulas.
        elements: (N) the elements of each crystal.
        columns: what colours the points; the rank of a crystal's own text comes last, if known.
        layout: positions of the N crystals and M texts.
        text_rows: (M,) int32, the crystal that each text describes.
        sentences: (N) the sentences of each crystal's text, None without one; None if left out.
        structures: (N) of (lattice (9,), atomic numbers (n,), fractional coordinates (3 n,)); None
            if left out.
        vectors: (N, d) float16 unit vectors of the crystals; None if left out.
        text_vectors: (M, d) float16 unit vectors of the texts; None if left out.
    """

    provenance: dict[str, Any]
    ids: list[str]
    formulas: list[str]
    elements: list[list[str]]
    columns: list[Column]
    layout: Layout
    text_rows: np.ndarray
    sentences: list[list[str] | None] | None
    structures: list[tuple[np.ndarray, np.ndarray, np.ndarray]] | None
    vectors: np.ndarray | None
    text_vectors: np.ndarray | None

    def column(self, key: str) -> Column:
        """The column of a key.

        Raises:
            MapError: there is none.
        """
        for column in self.columns:
            if column.key == key:
                return column
        known = ", ".join(column.key for column in self.columns)
        raise MapError(f"{key!r} is not a column of this index. Use one of: {known}.")


def read(index: Index, layout: str, seed: int) -> MapData:
    """Lays out an index and gathers what the page shows.

    Args:
        index: the index; it is not changed.
        layout: "pca" or "umap".
        seed: the seed of UMAP.

    Raises:
        MapError: see `lay_out`.
        MissingPackageError: see `lay_out`.
    """
    table = index.items()
    names = [name for name in table.column_names if name not in (*_STRUCTURE, "text")]
    texts = table["text"].to_pylist()
    crystals: list[np.ndarray] = list(index.vector_shards())
    text_rows, text_vectors = _texts_of(index, texts)
    plane = lay_out(crystals, text_vectors, layout, seed)
    columns = columns_of(table.select(names))
    if len(text_rows) and index.count <= MAX_DETAILED:
        ranks = np.full(index.count, np.nan)
        ranks[text_rows] = own_ranks(text_vectors, crystals, text_rows)
        columns.append(number(OWN_RANK, ranks))
    is_detailed = index.count <= MAX_DETAILED
    return MapData(
        provenance=_provenance(index, plane),
        ids=[str(name) for name in table["id"].to_pylist()],
        formulas=table["formula"].to_pylist(),
        elements=[list(symbols or ()) for symbols in table["elements"].to_pylist()],
        columns=columns,
        layout=plane,
        text_rows=text_rows,
        sentences=[split_sentences(t) if t else None for t in texts] if is_detailed else None,
        structures=list(_structures(table)) if is_detailed else None,
        vectors=np.concatenate(crystals) if is_detailed else None,
        text_vectors=np.concatenate(text_vectors) if is_detailed and text_vectors else None,
    )


def similarity(data: MapData, query: np.ndarray) -> Column:
    """The cosines of all crystals with the vector of a text, as a column.

    Args:
        data: the map.
        query: (d,) float32 unit vector.

    Raises:
        MapError: the map has no vectors.
    """
    if data.vectors is None:
        raise MapError("The index is too large to be coloured by similarity. Make a smaller one.")
    return number(SIMILARITY, unit_rows(data.vectors) @ query)


def own_ranks(
    texts: list[np.ndarray], crystals: list[np.ndarray], text_rows: np.ndarray
) -> np.ndarray:
    """The rank of each text's own crystal among all crystals.

    Args:
        texts: blocks of (M, d) unit vectors.
        crystals: blocks of (N, d) unit vectors.
        text_rows: (M,) the crystal of each text.

    Returns:
        (M,) float64 from 1 (the text is closest to its own crystal) to N. Crystals with the same
        score share their mean rank.
    """
    # float32 once: a product of float16 arrays would be slow and lose digits.
    pool = np.concatenate([unit_rows(block) for block in crystals])
    queries = np.concatenate(texts)
    ranks = np.empty(len(queries))
    for start in range(0, len(queries), _QUERIES):
        block = slice(start, start + _QUERIES)
        scores = np.asarray(queries[block], np.float32) @ pool.T
        own = np.take_along_axis(scores, text_rows[block, None], axis=1)
        others = (scores == own).sum(axis=1) - 1
        ranks[block] = 1 + (scores > own).sum(axis=1) + others / 2
    return ranks


def _texts_of(index: Index, texts: list[str | None]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rows of the crystals that have a text vector, and those vectors, in one block or none."""
    shards = index.text_shards()
    if not shards:
        return np.zeros(0, np.int32), []
    vectors = np.concatenate(shards)
    # An item without a text has a row of zeros or NaN.
    has_text = np.array([text is not None for text in texts]) & (np.abs(vectors).sum(axis=1) > 0)
    rows = np.flatnonzero(has_text).astype(np.int32)
    return rows, [vectors[rows]] if len(rows) else []


def _structures(table: Any) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    types = (np.float64, np.int16, np.float64)
    for values in zip(*(table[name].to_pylist() for name in _STRUCTURE), strict=True):
        lattice, numbers, coords = (
            np.asarray(value, dtype) for value, dtype in zip(values, types, strict=True)
        )
        yield lattice.ravel(), numbers.ravel(), coords.ravel()


def _provenance(index: Index, plane: Layout) -> dict[str, Any]:
    """The facts in the status line of the page, from the table of contents of the index."""
    model = index.info["model"]
    sources = [name for data in index.info["data"] for name in data["names"]]
    return {
        "model": model["name"],
        "step": model.get("step"),
        "checksum": model["checksum"],
        "data": one_line(", ".join(sources), 120),
        "fingerprint": index.info["data"][0]["fingerprint"],
        "index": index.checksum,
        "layout": plane.name,
        "seed": plane.seed,
    }
