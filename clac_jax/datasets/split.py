"""Which example is on which side: train, validation or test."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

SPLITS = ("train", "validation", "test")
SHARES = (0.8, 0.1, 0.1)


def split_by_formula(formulas: Sequence[str], salt: str = "clac_jax") -> list[str]:
    """A split for each example, 80/10/10, with all examples of one formula on one side.

    The formulas are put in the order of sha256(salt + formula), a fixed shuffle, and dealt out in
    that order until each split has its share of the examples.

    Args:
        formulas: reduced formula of each example.
        salt: another one gives another split.
    """
    counts: dict[str, int] = {}
    for formula in formulas:
        counts[formula] = counts.get(formula, 0) + 1
    shuffled = sorted(counts, key=lambda name: hashlib.sha256((salt + name).encode()).digest())
    ends = np.cumsum(SHARES) * len(formulas)
    side: dict[str, str] = {}
    done = 0
    for formula in shuffled:
        # By the middle of its examples, so that a formula with many of them lands where most fit.
        middle = done + counts[formula] / 2
        side[formula] = SPLITS[min(int(np.searchsorted(ends, middle)), len(SPLITS) - 1)]
        done += counts[formula]
    return [side[formula] for formula in formulas]


def split_by_row(num_rows: int, seed: int = 42) -> list[str]:
    """A split for each row, 80/10/10 of a seeded shuffle: the rule of the public data set."""
    order = np.random.default_rng(seed).permutation(num_rows)
    ends = np.round(np.cumsum(SHARES) * num_rows).astype(int)
    sides = np.empty(num_rows, object)
    for name, first, last in zip(SPLITS, [0, *ends[:-1]], ends, strict=True):
        sides[order[first:last]] = name
    return sides.tolist()
