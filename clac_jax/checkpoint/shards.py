"""The shards of an array: equal blocks, numbered in C order."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

Region = tuple[slice, ...]
"""One slice per axis, with start and stop as non-negative numbers."""


@dataclass(frozen=True)
class Grid:
    """The division of an array into equal shards.

    Attributes:
        shape: shape of the array.
        shard_shape: shape of each shard; its sizes divide those of the array.
    """

    shape: tuple[int, ...]
    shard_shape: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of shards along each axis."""
        pairs = zip(self.shape, self.shard_shape, strict=True)
        return tuple(size // max(part, 1) if size else 1 for size, part in pairs)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def region(self, number: int) -> Region:
        """The region of one shard."""
        place = np.unravel_index(number, self.counts) if self.shape else ()
        return tuple(
            slice(int(index) * size, (int(index) + 1) * size)
            for index, size in zip(place, self.shard_shape, strict=True)
        )

    def number(self, region: Region) -> int:
        """The number of the shard that starts where this region starts."""
        place = [
            part.start // size if size else 0
            for part, size in zip(region, self.shard_shape, strict=True)
        ]
        return int(np.ravel_multi_index(place, self.counts)) if place else 0

    def overlapping(self, region: Region) -> list[int]:
        """The numbers of the shards that share elements with a region, in order."""
        ranges = [
            range(part.start // size, -(-part.stop // size)) if size else range(0)
            for part, size in zip(region, self.shard_shape, strict=True)
        ]
        if not ranges:
            return [0]
        places = itertools.product(*ranges)
        return [int(np.ravel_multi_index(place, self.counts)) for place in places]


def region_of(index: tuple[slice, ...], shape: tuple[int, ...]) -> Region:
    """JAX's index of a shard (whose slices may lack start and stop) as a region."""
    return tuple(slice(*part.indices(size)[:2]) for part, size in zip(index, shape, strict=True))


def shape_of(region: Region) -> tuple[int, ...]:
    """Shape of a region."""
    return tuple(part.stop - part.start for part in region)


def common(a: Region, b: Region) -> Region:
    """The region that two overlapping regions have in common."""
    return tuple(
        slice(max(x.start, y.start), min(x.stop, y.stop)) for x, y in zip(a, b, strict=True)
    )


def within_shape(region: Region, shape: tuple[int, ...]) -> Region:
    """The part of a region that an array of a different shape has; empty slices without one."""
    return tuple(
        slice(min(part.start, size), min(part.stop, size))
        for part, size in zip(region, shape, strict=True)
    )


def within(region: Region, outer: Region) -> Region:
    """A region in the coordinates of one that contains it."""
    return tuple(
        slice(part.start - around.start, part.stop - around.start)
        for part, around in zip(region, outer, strict=True)
    )
