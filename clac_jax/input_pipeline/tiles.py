"""Tiles: slots in which several crystals or texts lie next to each other, none of them split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

Tiles = tuple[tuple[int, int], ...]
"""((slots per tile, number of such tiles), ...): the static layout of a packed axis."""


def num_slots(tiles: Tiles) -> int:
    """Total number of slots in all tiles."""
    return sum(size * count for size, count in tiles)


def num_pairs(tiles: Tiles) -> int:
    """Number of ordered pairs of slots that share a tile."""
    return sum(size * size * count for size, count in tiles)


@dataclass(frozen=True)
class Span:
    """Position of one sequence: first slot; first pair and size of its tile; offset in the tile."""

    first: int
    first_pair: int
    tile_size: int
    offset: int


def pack(sizes: Sequence[int], tiles: Tiles) -> list[Span] | None:
    """Packs sequences of these sizes, best fit, largest first; None if they do not fit."""
    starts: list[tuple[int, int, int]] = []
    slot = pair = 0
    for size, count in tiles:
        for _ in range(count):
            starts.append((slot, pair, size))
            slot += size
            pair += size * size
    free = [size for _, _, size in starts]
    spans: dict[int, Span] = {}
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        fitting = [(left, tile) for tile, left in enumerate(free) if left >= sizes[k]]
        if not fitting:
            return None
        left, tile = min(fitting)
        first, first_pair, tile_size = starts[tile]
        offset = tile_size - left
        spans[k] = Span(first + offset, first_pair, tile_size, offset)
        free[tile] -= sizes[k]
    return [spans[k] for k in range(len(sizes))]
