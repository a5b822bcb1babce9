"""Queries: texts, crystals and rows of an index, combined to one vector.

The vector is the mean of the unit vectors of what is wanted, minus the weighted mean of those of
what is not, scaled to unit length:

    q = mean(p_1, ..., p_n) - mean(w_1 m_1, ..., w_j m_j)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clac_jax.datasets.record import is_unicode
from clac_jax.errors import UserError

NOT_WEIGHT = 0.5
"""Weight of negative texts. With 1 a text and its opposite, which share most of their direction,
would nearly cancel."""

MAX_ITEMS = 1000
_CANCELS = 1e-3


class QueryError(UserError, ValueError):
    """A query cannot be searched for."""


@dataclass(frozen=True)
class Query:
    """The parts of a search.

    Attributes:
        texts: descriptions.
        crystals: `Crystal` objects, paths of files, texts of CIFs, pymatgen or ASE objects.
        rows: crystals of the index, by their row.
        not_texts: descriptions of what to avoid.
        not_weights: the weight of each negative text, or one for all.

    Raises:
        QueryError: there is nothing to search for, a text is empty, or a weight cannot be used.
    """

    texts: tuple[str, ...] = ()
    crystals: tuple[Any, ...] = ()
    rows: tuple[int, ...] = ()
    not_texts: tuple[str, ...] = ()
    not_weights: tuple[float, ...] = (NOT_WEIGHT,)

    def __post_init__(self) -> None:
        if not (self.texts or self.crystals or self.rows or self.not_texts):
            raise QueryError("The query is empty. Give a text, a crystal, or a row of the index.")
        if len(self.texts) + len(self.crystals) + len(self.rows) > MAX_ITEMS:
            raise QueryError(f"The query has more than {MAX_ITEMS:,} parts. Give fewer.")
        for text in (*self.texts, *self.not_texts):
            if not isinstance(text, str) or not text.strip():
                raise QueryError("A text of the query is empty. Write what to search for.")
            if not is_unicode(text):
                raise QueryError("A text of the query is not valid Unicode. Correct it.")
        if len(self.not_weights) not in (1, len(self.not_texts)):
            raise QueryError(
                f"There are {len(self.not_weights)} weights for {len(self.not_texts)} negative "
                "texts. Give one for all, or one for each."
            )
        for weight in self.not_weights:
            if not (math.isfinite(weight) and weight > 0):
                raise QueryError(f"A negative text has the weight {weight}. Use one above 0.")


def combined(wanted: np.ndarray, unwanted: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The unit vector of a query.

    Args:
        wanted: (n, d) float32 unit vectors; n may be 0.
        unwanted: (m, d) float32 unit vectors; m may be 0.
        weights: m weights, or one for all.

    Returns:
        (d,) float32 of length 1.

    Raises:
        QueryError: the parts cancel each other.
    """
    vector = np.zeros(wanted.shape[1], np.float64)
    if len(wanted):
        vector += wanted.astype(np.float64).mean(axis=0)
    if len(unwanted):
        scale = np.broadcast_to(np.asarray(weights, np.float64), len(unwanted))
        vector -= (scale[:, None] * unwanted.astype(np.float64)).mean(axis=0)
    length = float(np.linalg.norm(vector))
    if not length > _CANCELS:
        raise QueryError(
            "The parts of the query cancel each other. Remove some, or lower the weight of the "
            "negative texts."
        )
    return np.asarray(vector / length, np.float32)
