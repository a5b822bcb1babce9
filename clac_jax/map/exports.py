"""The map for other programs: a JSON input of chemiscope and a table for embedding-atlas."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.crystals import elements
from clac_jax.errors import counted
from clac_jax.files.atomic import replacing, write_atomically
from clac_jax.map.columns import FACTS, Column
from clac_jax.map.data import MapData
from clac_jax.map.layout import MapError

NEIGHBOURS = 10
"""Nearest crystals per row of the table."""
_BLOCK = 1024


def write_chemiscope(data: MapData, path: Path) -> None:
    """Writes an input file of chemiscope (https://chemiscope.org): the crystals with the map.

    The format is that of "Input file reference" in chemiscope's documentation. Unknown numbers are
    the word NaN, which JSON lacks and chemiscope reads.

    Args:
        data: the map; its texts become a property of the crystals.
        path: the file, `.json` or `.json.gz`.

    Raises:
        MapError: the map has no structures, or the file has another ending.
        WorkdirError: the file cannot be written.
    """
    if not path.name.endswith((".json", ".json.gz")):
        raise MapError(f"{path} does not end in .json or .json.gz, the files chemiscope opens.")
    if data.structures is None:
        raise MapError("The index is too large for chemiscope. Make a smaller one.")
    model = data.provenance["model"]
    properties: dict[str, Any] = {
        "map x": _property(data.layout.crystals[:, 0].tolist()),
        "map y": _property(data.layout.crystals[:, 1].tolist()),
        "id": _property(data.ids),
        "formula": _property(data.formulas),
    }
    for column in data.columns:
        properties[column.label] = _property(_values(column), column.unit)
    if data.sentences is not None:
        properties["text"] = _property([" ".join(s or ()) for s in data.sentences])
    numbers = [column for column in data.columns if column.categories is None]
    # A property, rather than what is computed of every crystal, if there is one.
    numbers.sort(key=lambda column: column.key in FACTS)
    colour = numbers[0].label if numbers else ""
    content = json.dumps(
        {
            "meta": {
                "name": f"Map of {counted(len(data.ids), 'crystal')}",
                "description": f"Vectors of {model}, laid out by {data.layout.name}.",
            },
            "structures": [_structure(*structure) for structure in data.structures],
            "properties": properties,
            "settings": {
                "map": {
                    "x": {"property": "map x"},
                    "y": {"property": "map y"},
                    "color": {"property": colour},
                    "palette": "viridis",
                },
                "structure": [{"unitCell": True, "bonds": True}],
            },
        },
        ensure_ascii=False,
        separators=(",", ":"),
    ).encode()
    write_atomically(path, gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)


def write_atlas(data: MapData, path: Path) -> None:
    """Writes a parquet table for embedding-atlas: one row per crystal, then one per text.

    `embedding-atlas FILE --x projection_x --y projection_y --neighbors neighbors --text text` shows
    it. The column `neighbors` has the row numbers of the nearest crystals and their cosine
    distances; `modality` says which rows are texts.

    Raises:
        WorkdirError: the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = np.concatenate([np.arange(len(data.ids)), data.text_rows])
    plane = np.concatenate([data.layout.crystals, data.layout.texts])
    columns: dict[str, Any] = {
        "id": [data.ids[row] for row in rows],
        "formula": [data.formulas[row] for row in rows],
        "modality": ["crystal"] * len(data.ids) + ["text"] * len(data.text_rows),
        "projection_x": plane[:, 0],
        "projection_y": plane[:, 1],
    }
    if data.sentences is not None:
        texts = [" ".join(sentences or ()) or None for sentences in data.sentences]
        columns["text"] = [texts[row] for row in rows]
    for column in data.columns:
        values = _values(column)
        columns[column.key] = [_null(values[row]) for row in rows]
    if data.vectors is not None:
        columns["neighbors"] = _neighbours(data)
    with replacing(path) as temporary:
        pq.write_table(pa.table(columns), temporary)


def _property(values: list[Any], unit: str = "") -> dict[str, Any]:
    return {"target": "structure", "values": values} | ({"units": unit} if unit else {})


def _values(column: Column) -> list[Any]:
    """Numbers, NaN where unknown; or names of categories, "unknown" where unknown."""
    if column.categories is None:
        # Rounded to the digits of float32: 0.1 instead of 0.10000000149.
        return [float(f"{value:.7g}") for value in column.values.tolist()]
    names = [*column.categories, *["unknown"] * (256 - len(column.categories))]
    return [names[code] for code in column.values.tolist()]


def _null(value: Any) -> Any:
    return None if value == "unknown" or value != value else value


def _structure(lattice: np.ndarray, numbers: np.ndarray, coords: np.ndarray) -> dict[str, Any]:
    x, y, z = (coords.reshape(-1, 3) @ lattice.reshape(3, 3)).T.round(5)
    return {
        "size": len(numbers),
        "names": [elements.symbol(int(number)) for number in numbers],
        "x": x.tolist(),
        "y": y.tolist(),
        "z": z.tolist(),
        "cell": lattice.round(6).tolist(),
    }


def _neighbours(data: MapData) -> list[dict[str, list[Any]]]:
    """The nearest crystals of each row, nearest first, without the crystal itself."""
    assert data.vectors is not None
    pool = np.asarray(data.vectors, np.float32)
    queries, own = [pool], [np.arange(len(pool))]
    if data.text_vectors is not None:
        queries.append(np.asarray(data.text_vectors, np.float32))
        own.append(np.full(len(data.text_vectors), -1))
    count = min(NEIGHBOURS, len(pool) - 1)
    result = []
    for vectors, rows in zip(queries, own, strict=True):
        for start in range(0, len(vectors), _BLOCK):
            scores = vectors[start : start + _BLOCK] @ pool.T
            here = rows[start : start + _BLOCK]
            is_crystal = here >= 0
            scores[np.flatnonzero(is_crystal), here[is_crystal]] = -np.inf
            best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
            values = np.take_along_axis(scores, best, axis=1)
            order = np.lexsort((best, -values), axis=1)
            best = np.take_along_axis(best, order, axis=1)
            distances = 1 - np.take_along_axis(values, order, axis=1)
            result += [
                {"ids": ids, "distances": away}
                for ids, away in zip(best.tolist(), distances.round(6).tolist(), strict=True)
            ]
    return result
