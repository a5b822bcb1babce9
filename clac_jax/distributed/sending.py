"""Arrays, one by one, and texts that one process sends to the others."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from clac_jax.distributed import processes

PIECE_BYTES = 1 << 26
TEXT_BYTES = 2048  # of each piece


def each_from_first(
    make: Callable[[], Sequence[Any]], shapes: Sequence[jax.ShapeDtypeStruct]
) -> Iterator[np.ndarray]:
    """Yields in every process, one by one, the arrays that `make` returns in the first.

    The others hold one array at a time. Every process must consume the iterator to its end.

    Args:
        make: called in the first process only.
        shapes: shape and dtype of each array.
    """
    if not processes.are_several():
        for array, leaf in zip(make(), shapes, strict=True):
            yield np.asarray(array, leaf.dtype)
        return
    arrays = make() if processes.is_first() else None
    sizes = [math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in shapes]
    received = _pieces(_flat(arrays, shapes) if arrays is not None else None, sum(sizes))
    piece = np.zeros(0, np.uint8)
    for leaf, size in zip(shapes, sizes, strict=True):
        array, filled = np.empty(size, np.uint8), 0
        while filled < size:
            if not piece.size:
                piece = next(received)
            count = min(size - filled, piece.size)
            array[filled : filled + count] = piece[:count]
            piece, filled = piece[count:], filled + count
        yield array.view(leaf.dtype).reshape(leaf.shape)


def any_text(text: str) -> str:
    """The text of the first process, in their order, that gives one; "" if none does.

    A collective: every process must call it. The text may be of any length.
    """
    if not processes.are_several():
        return text
    behind = jax.process_count() - jax.process_index()
    first = int(processes.maximum([behind if text else 0])()[0])
    # Names of files may have bytes that are not UTF-8, which Python keeps as surrogates.
    content = text.encode(errors="surrogatepass") if first == behind else b""
    size = int(processes.maximum([len(content)])()[0])
    received = bytearray()
    for begin in range(0, size, TEXT_BYTES):  # padded: one program for all pieces
        piece = content[begin : begin + TEXT_BYTES].ljust(TEXT_BYTES, b"\0")
        row = np.frombuffer(piece, np.uint8).tolist()
        received += processes.maximum(row)().astype(np.uint8).tobytes()
    return received[:size].decode(errors="surrogatepass")


def _flat(arrays: Sequence[Any], shapes: Sequence[jax.ShapeDtypeStruct]) -> Iterator[np.ndarray]:
    for array, leaf in zip(arrays, shapes, strict=True):
        yield np.ascontiguousarray(np.asarray(array, leaf.dtype)).reshape(-1).view(np.uint8)


def _pieces(source: Iterator[np.ndarray] | None, total: int) -> Iterator[np.ndarray]:
    """The bytes of the arrays in the first process, in pieces of bounded size."""
    rest = np.zeros(0, np.uint8)
    for begin in range(0, total, PIECE_BYTES):
        piece, filled = np.zeros(min(PIECE_BYTES, total - begin), np.uint8), 0
        while source is not None and filled < piece.size:
            if not rest.size:
                rest = next(source)
            count = min(piece.size - filled, rest.size)
            piece[filled : filled + count] = rest[:count]
            rest, filled = rest[count:], filled + count
        yield processes.bytes_from_first(piece)
