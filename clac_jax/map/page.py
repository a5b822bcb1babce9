"""The folder of a map: the page, its scripts, and the data as scripts.

A page opened from a folder (`file://`) may load scripts and styles by their path, but may not fetch
files; so the data are scripts as well, each block compressed and written as base64.
"""

from __future__ import annotations

import base64
import gzip
import json
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.crystals import elements
from clac_jax.files.atomic import write_atomically
from clac_jax.index.layout import HEAD_START, MAP_HEAD, is_map
from clac_jax.map.columns import Column
from clac_jax.map.data import MapData
from clac_jax.map.layout import MapError

FORMAT = 1
"""Number of the data's format; the scripts of the page refuse any other."""
PAGE = "index.html"


def write_page(data: MapData, folder: Path) -> None:
    """Writes a map; an existing map in the folder is replaced.

    Args:
        data: the map.
        folder: is made if it does not exist.

    Raises:
        MapError: the folder has other files than a map's.
        WorkdirError: a file cannot be written.
    """
    if folder.exists() and not is_map(folder) and any(folder.iterdir()):
        raise MapError(f"{folder} is not empty and is not a map. Choose a new folder.")
    (folder / "data").mkdir(parents=True, exist_ok=True)
    (folder / "js").mkdir(exist_ok=True)
    # First: it marks the folder as a map, which may be replaced.
    write_atomically(folder / MAP_HEAD, f"{HEAD_START}{_json(_head(data))});\n")
    for name, blocks in _files(data).items():
        lines = [
            f'ClacMap.block("{key}", "{_packed(content)}");\n' for key, content in blocks.items()
        ]
        write_atomically(folder / "data" / f"{name}.js", "".join(lines))
    with resources.as_file(resources.files("clac_jax.map") / "assets") as assets:
        for source in sorted(assets.rglob("*")):
            if source.is_file() and source.name != PAGE:
                shutil.copyfile(source, folder / source.relative_to(assets))
        # Last: a folder with this file is complete.
        write_atomically(folder / PAGE, (assets / PAGE).read_bytes())


def served_page(folder: Path) -> str:
    """The page for a server that answers `POST /search` and has the other files next to the page.

    Raises:
        MapError: the folder is not a map.
    """
    path = folder / PAGE
    if not path.is_file():
        raise MapError(f"{folder} is not a map. Make it with `clac-jax map`.")
    return path.read_text(encoding="utf-8").replace('data-service=""', 'data-service="/"', 1)


def _head(data: MapData) -> dict[str, Any]:
    layout = data.layout
    return {
        "format": FORMAT,
        "provenance": data.provenance,
        "crystals": len(data.ids),
        "texts": len(data.text_rows),
        "dimension": 0 if data.vectors is None else data.vectors.shape[1],
        "layout": {"name": layout.name, "seed": layout.seed, "explained": layout.explained},
        "columns": [_described(column) for column in data.columns],
        "symbols": [
            "", *(elements.symbol(z) for z in range(1, elements.MAX_ATOMIC_NUMBER + 1)),
        ],
        "radii": np.round(elements.covalent_radii(), 3).tolist(),
    }  # fmt: skip


def _described(column: Column) -> dict[str, Any]:
    return {
        "key": column.key,
        "label": column.label,
        "unit": column.unit,
        "categories": column.categories,
        "low": column.low,
        "high": column.high,
        "log": column.is_log,
    }


def _files(data: MapData) -> dict[str, dict[str, bytes]]:
    """File -> block -> content: little-endian arrays in C order, or JSON."""
    points = np.concatenate([data.layout.crystals, data.layout.texts])
    files = {
        "points": {
            "points": _bytes(points, "<f4"),
            "text_rows": _bytes(data.text_rows, "<i4"),
            "names": _json({"ids": data.ids, "formulas": data.formulas}).encode(),
        }
        | {
            f"column:{column.key}": _bytes(column.values, column.values.dtype.newbyteorder("<").str)
            for column in data.columns
        },
        "texts": {},
        "structures": {},
        "vectors": {},
    }
    if data.sentences is not None:
        files["texts"]["sentences"] = _json(data.sentences).encode()
    if data.structures is not None:
        lattices, numbers, coords = zip(*data.structures, strict=True)
        files["structures"] = {
            "sizes": _bytes(np.array([len(z) for z in numbers]), "<u4"),
            "lattices": _bytes(np.concatenate(lattices), "<f4"),
            "numbers": _bytes(np.concatenate(numbers), "u1"),
            "coords": _bytes(np.concatenate(coords) % 1.0, "<f4"),
        }
    for name, vectors in (("vectors", data.vectors), ("text_vectors", data.text_vectors)):
        if vectors is not None:
            codes, scales = quantized(vectors)
            files["vectors"][name] = _bytes(codes, "i1")
            files["vectors"][f"{name}:scales"] = _bytes(scales, "<f4")
    return files


def quantized(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors as 8-bit integers with one scale per row; vector = code * scale.

    Args:
        vectors: (N, d).

    Returns:
        (N, d) int8 and (N,) float32.
    """
    vectors = np.asarray(vectors, np.float32)
    scales = np.maximum(np.abs(vectors).max(axis=1), 1e-12) / 127
    return np.round(vectors / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def _bytes(array: np.ndarray, dtype: str) -> bytes:
    return np.ascontiguousarray(array, np.dtype(dtype)).tobytes()


def _packed(content: bytes) -> str:
    # Without the time of writing, so that the same map has the same bytes.
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode("ascii")


def _json(values: Any) -> str:
    """Compact JSON that is also a JavaScript expression inside a script file."""
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return text.replace("</", "<\\/")
