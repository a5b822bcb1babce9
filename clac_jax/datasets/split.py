"""Which example is on which side: train, validation or test."""

from __future__ import annotations

import hashlib

import numpy as np

SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)


def formula_key(formula: str, salt: str = "clac_jax") -> int:
    """The place of a formula in the fixed shuffle of `split_by_formula`, an unsigned 64-bit number.

    Args:
        formula: the reduced one.
        salt: another one gives another split.
    """
    return int.from_bytes(hashlib.sha256((salt + formula).encode()).digest()[:8], "big")


def split_by_formula(keys: np.ndarray) -> np.ndarray:
    """A split for each example, 80/10/10, with all examples of one formula on one side.

    The formulas are put in the order of their keys, a fixed shuffle, and dealt out in that order
    until each split has its share of the examples.

    Args:
        keys: (examples,) uint64, the `formula_key` of each.

    Returns:
        (examples,) int8 places in SPLITS.
    """
    _, formula, counts = np.unique(keys, return_inverse=True, return_counts=True)
    # By the middle of its examples, so that a formula with many of them lands where most fit.
    middles = np.cumsum(counts) - counts / 2
    ends = np.cumsum(SHARES) * len(keys)
    sides = np.minimum(np.searchsorted(ends, middles), len(SPLITS) - 1)
    return sides.astype(np.int8)[formula]


def split_by_row(num_rows: int, seed: int = 42) -> np.ndarray:
    """A split for each row, 80/10/10 of a seeded shuffle: the rule of the public data set.

    Returns:
        (num_rows,) int8 places in SPLITS.
    """
    order = np.random.default_rng(seed).permutation(num_rows)
    ends = np.round(np.cumsum(SHARES) * num_rows).astype(int)
    sides = np.empty(num_rows, np.int8)
    for place, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        sides[order[first:last]] = place
    return sides
