"""Reads safetensors files: 8 bytes of length, a JSON header of names and places, and the numbers.

The package of that name knows no NumPy type for bfloat16, in which language models come, and fails
in several ways on files that are not right; writing is its own.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from clac_jax.errors import UserError, error_reason
from clac_jax.files.json import parse_object

# Eight-bit floats are left out: what they mean depends on scales that other tensors hold.
_DTYPES = {
    "F64": np.float64,
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "I64": np.int64,
    "I32": np.int32,
    "I16": np.int16,
    "I8": np.int8,
    "U64": np.uint64,
    "U32": np.uint32,
    "U16": np.uint16,
    "U8": np.uint8,
    "BOOL": np.bool_,
}
_MAX_HEADER = 100_000_000  # bytes; the format's own limit
_MAX_DIMENSIONS = 32


class SafetensorsError(UserError, ValueError):
    """A safetensors file cannot be read."""


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """All tensors of a file by name, read-only, and the texts of its `__metadata__`.

    Raises:
        SafetensorsError: the file is missing, or is not such a file; says why.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        with path.open("rb") as file:
            size = path.stat().st_size - 8
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size, _MAX_HEADER):
                raise ValueError(f"its header has {length} bytes, and the file {max(0, size)}")
            header = parse_object(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
            metadata = _texts(header.pop("__metadata__", {}))
            places = _places(header, size - length)
            return _tensors(places, file.read(size - length)), metadata
    except (OSError, ValueError, MemoryError) as error:
        reason = error_reason(error)
        raise SafetensorsError(f"{path} cannot be read ({reason}). Download it again.") from error


_Place = tuple[np.dtype, tuple[int, ...], int, int]


def _places(header: dict[str, Any], size: int) -> dict[str, _Place]:
    """Where each tensor is: one directly behind the other, and nothing between or behind them."""
    places = {name: _place(name, entry) for name, entry in header.items()}
    at = 0
    for name, (dtype, shape, start, end) in sorted(places.items(), key=lambda item: item[1][2:]):
        if start != at or end - start != math.prod(shape) * dtype.itemsize or end > size:
            raise ValueError(
                f"tensor {name} of shape {shape} is at bytes {start} to {end} of {size}, and the "
                f"one before ends at {at}"
            )
        at = end
    if at != size:
        raise ValueError(f"it has {size} bytes of numbers, and its header describes {at}")
    return places


def _tensors(places: dict[str, _Place], data: bytes) -> dict[str, np.ndarray]:
    tensors = {}
    for name, (dtype, shape, start, _) in places.items():
        is_bool = dtype == np.bool_
        stored = np.uint8 if is_bool else dtype
        values = np.frombuffer(data, stored, math.prod(shape), start)
        tensors[name] = (values != 0 if is_bool else values).reshape(shape)
    return tensors


def _place(name: str, entry: Any) -> _Place:
    """Number type, shape, first byte and the byte behind the last."""
    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name} has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"tensor {name} has numbers of the type {dtype!r}, which is not supported")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS or not _are_counts(offsets):
        raise ValueError(f"tensor {name} has no valid shape or position")
    if len(offsets) != 2:
        raise ValueError(f"tensor {name} has {len(offsets)} offsets")
    return np.dtype(_DTYPES[dtype]), tuple(shape), *offsets


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
        for value in values
    )


def _texts(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its __metadata__ are not texts")
    return metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("two of its tensors have the same name")
    return values
