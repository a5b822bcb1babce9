"""Assignment of examples to the splits train, validation and test."""

from __future__ import annotations

import hashlib

import numpy as np

SPLITS = ("train", "validation", "test")
FRACTIONS = (0.8, 0.1, 0.1)


def formula_key(formula: str, salt: str = "clac_jax") -> int:
    """The 64-bit sort key of a formula in the fixed shuffle of `split_by_formula`.

    Args:
        formula: reduced formula.
        salt: changing it gives a different split.
    """
    return int.from_bytes(hashlib.sha256((salt + formula).encode()).digest()[:8], "big")


def split_by_formula(keys: np.ndarray) -> np.ndarray:
    """Splits examples 80/10/10, with all examples of a formula in one split.

    Formulas are sorted by key, which shuffles them in a fixed way, and assigned in that order until
    each split has its fraction of the examples.

    Args:
        keys: (num_examples,) uint64, the `formula_key` of each example.

    Returns:
        (num_examples,) int8 indices into SPLITS.
    """
    _, formula, counts = np.unique(keys, return_inverse=True, return_counts=True)
    # The midpoint of its examples decides, so a formula with many goes where most of them fit.
    middles = np.cumsum(counts) - counts / 2
    ends = np.cumsum(FRACTIONS) * len(keys)
    splits = np.minimum(np.searchsorted(ends, middles), len(SPLITS) - 1)
    return splits.astype(np.int8)[formula]


def split_by_row(num_rows: int, seed: int = 42) -> np.ndarray:
    """Splits rows 80/10/10 after a seeded shuffle, as the public data set does.

    Returns:
        (num_rows,) int8 indices into SPLITS.
    """
    order = np.random.default_rng(seed).permutation(num_rows)
    ends = np.round(np.cumsum(FRACTIONS) * num_rows).astype(int)
    splits = np.empty(num_rows, np.int8)
    for place, (first, last) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        splits[order[first:last]] = place
    return splits
