"""Which other crystal takes a crystal's place: the baseline that looks at the texts only."""

from __future__ import annotations

import zlib

import numpy as np

SEED = 42
"""Seed from which the seed of every task is derived, see `rng_of`."""


def rng_of(name: str, seed: int = SEED) -> np.random.Generator:
    """The random numbers of one purpose: the same for the same name and seed, on every machine.

    Args:
        name: what the numbers are for; other names give unrelated numbers.
        seed: seed of the evaluation.
    """
    return np.random.default_rng([seed, zlib.crc32(name.encode())])


def derangements(count: int, number: int, name: str) -> np.ndarray:
    """Reorderings in which no crystal keeps its place.

    The crystals are shuffled and then shifted by 1, 2, ... places along the shuffled order, so no
    two of the reorderings give a crystal the same partner.

    Args:
        count: number of crystals.
        number: number of reorderings wanted.
        name: the purpose, from which the seed is derived (`rng_of`).

    Returns:
        (m, count) int64 with m = min(number, count - 1): row k holds, for each crystal, the index
        of the crystal that takes its place. m is 0 for a single crystal: there is no other.
    """
    shuffled = rng_of(name).permutation(count)
    shifts = range(1, min(number, count - 1) + 1)
    result = np.zeros((len(shifts), count), np.int64)
    for row, shift in zip(result, shifts, strict=True):
        row[shuffled] = np.roll(shuffled, -shift)
    return result
