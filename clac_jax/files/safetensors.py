"""Reader of safetensors files: header length (8 bytes), JSON header, tensor data.

The safetensors package does not read bfloat16, the usual dtype of language models, into NumPy and
raises errors of several types for invalid files. It is only used for writing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard, TypeVar

import ml_dtypes
import numpy as np

from clac_jax.errors import UserError, error_reason
from clac_jax.files.json import parse_object

# Without 8-bit floats, whose values depend on scales in other tensors.
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
_Location = tuple[np.dtype, tuple[int, ...], int, int]
T = TypeVar("T")


class SafetensorsError(UserError, ValueError):
    """A safetensors file cannot be read."""


def read_safetensors(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads all tensors of a file.

    Returns:
        The read-only tensors by name, and the strings of `__metadata__`.

    Raises:
        SafetensorsError: the file is missing or invalid.
    """
    return _read(path, lambda locations, file, size: _tensors(locations, file.read(size)))


def safetensors_shapes(
    path: str | Path,
) -> tuple[dict[str, tuple[tuple[int, ...], np.dtype]], dict[str, str]]:
    """Shape and dtype of all tensors of a file, of which only the header is read.

    Returns and raises as `read_safetensors`.
    """
    return _read(
        path, lambda locations, *_: {name: (at[1], at[0]) for name, at in locations.items()}
    )


def _read(
    path: str | Path, take: Callable[[dict[str, _Location], BinaryIO, int], dict[str, T]]
) -> tuple[dict[str, T], dict[str, str]]:
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a file")
        with path.open("rb") as file:
            size = path.stat().st_size - 8
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size, _MAX_HEADER):
                raise ValueError(
                    f"its header is {length} bytes long, but the file has {max(0, size)}"
                )
            header = parse_object(file.read(length).decode("utf-8"), object_pairs_hook=_unique)
            metadata = _texts(header.pop("__metadata__", {}))
            locations = _locations(header, size - length)
            return take(locations, file, size - length), metadata
    except (OSError, ValueError, MemoryError) as error:
        reason = error_reason(error)
        raise SafetensorsError(f"{path} cannot be read ({reason}). Download it again.") from error


def _locations(header: dict[str, Any], size: int) -> dict[str, _Location]:
    """The location of each tensor. They must be contiguous and fill the rest of the file."""
    locations = {name: _location(name, entry) for name, entry in header.items()}
    at = 0
    for name, (dtype, shape, start, end) in sorted(locations.items(), key=lambda item: item[1][2:]):
        if start != at or end - start != math.prod(shape) * dtype.itemsize or end > size:
            raise ValueError(
                f"tensor {name} of shape {shape} is at bytes {start} to {end} of {size}, but the "
                f"previous one ends at {at}"
            )
        at = end
    if at != size:
        raise ValueError(f"it has {size} bytes of data, but its header describes {at}")
    return locations


def _tensors(locations: dict[str, _Location], data: bytes) -> dict[str, np.ndarray]:
    tensors = {}
    for name, (dtype, shape, start, _) in locations.items():
        is_bool = dtype == np.bool_
        stored = np.uint8 if is_bool else dtype
        values = np.frombuffer(data, stored, math.prod(shape), start)
        tensors[name] = (values != 0 if is_bool else values).reshape(shape)
    return tensors


def _location(name: str, entry: Any) -> _Location:
    """Dtype, shape, start and end (exclusive) of a tensor."""
    if not isinstance(entry, dict):
        raise ValueError(f"tensor {name} has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"tensor {name} has the dtype {dtype!r}, which is not supported")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS or not _are_counts(offsets):
        raise ValueError(f"tensor {name} has no valid shape or position")
    if len(offsets) != 2:
        raise ValueError(f"tensor {name} has {len(offsets)} offsets")
    return np.dtype(_DTYPES[dtype]), tuple(shape), offsets[0], offsets[1]


def _are_counts(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(
        isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62
        for value in values
    )


def _texts(metadata: Any) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its __metadata__ are not strings")
    return metadata


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("two of its tensors have the same name")
    return values
