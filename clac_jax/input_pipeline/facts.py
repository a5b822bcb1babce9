"""Descriptors of crystals and compositions of formulas, as they accompany packed examples."""

from __future__ import annotations

from dataclasses import dataclass

import flax.struct
import numpy as np

from clac_jax.crystals.descriptors import CELL_NUMBERS, SITE_NUMBERS
from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.typing import Array

MAX_FORMULAS = 4
"""The formulas of a text, repetitions included, whose compositions are used: the first ones."""


@dataclass(frozen=True)
class FormulaView:
    """The formulas of one tokenized text that state a composition, the first `MAX_FORMULAS`.

    Attributes:
        tokens: (f, 2) int32 first token of each, and the one after its last.
        fractions: (f, MAX_ATOMIC_NUMBER + 1) float32 atomic fractions.
    """

    tokens: np.ndarray
    fractions: np.ndarray

    def shown_by(self, shown: np.ndarray) -> FormulaView:
        """The formulas without a masked token; `shown` (L,) bool is False for masked ones."""
        kept = np.array([shown[first:end].all() for first, end in self.tokens], bool)
        return FormulaView(self.tokens[kept], self.fractions[kept])


@flax.struct.dataclass
class DescriptorBatch:
    """The descriptors of packed crystals; see `clac_jax.crystals.descriptors`.

    Attributes:
        space_group: (rows,) int32; 0 at padding.
        cell: (rows, CELL_NUMBERS) float32; 1 at padding.
        sites: (N, SITE_NUMBERS) float32; 1 at padding.
    """

    space_group: Array
    cell: Array
    sites: Array


@flax.struct.dataclass
class FormulaBatch:
    """The compositions of the formulas in packed texts, `MAX_FORMULAS` slots per row.

    Attributes:
        first_token: (rows * MAX_FORMULAS,) int32 slot of each formula's first token; the number of
            token slots where there is no formula.
        fractions: (rows * MAX_FORMULAS, MAX_ATOMIC_NUMBER + 1) float32 atomic fractions; 0 where
            there is none.
    """

    first_token: Array
    fractions: Array


def no_formulas(rows: int, tokens: int) -> FormulaBatch:
    """The slots of `rows` texts without formulas, in a batch of `tokens` token slots."""
    slots = rows * MAX_FORMULAS
    return FormulaBatch(
        first_token=np.full(slots, tokens, np.int32),
        fractions=np.zeros((slots, MAX_ATOMIC_NUMBER + 1), np.float32),
    )


def no_descriptors(rows: int, nodes: int) -> DescriptorBatch:
    """The slots of a batch before descriptors are written to them."""
    return DescriptorBatch(
        space_group=np.zeros(rows, np.int32),
        cell=np.ones((rows, CELL_NUMBERS), np.float32),
        sites=np.ones((nodes, SITE_NUMBERS), np.float32),
    )
