"""The numbers and compositions that a text states, and the tokens that state them."""

from __future__ import annotations

import numpy as np

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.text.compositions import formulas_in
from clac_jax.text.numbers import numbers_in


def token_numbers(text: str, offsets: np.ndarray) -> np.ndarray:
    """(L,) float32: for each token of a number its value, else NaN.

    The tokens that are left of a number that was cut have the value of all of it.

    Args:
        text: the text.
        offsets: (L, 2) positions of its tokens, see `Tokenizer.encode_with_offsets`.
    """
    result = np.full(len(offsets), np.nan, np.float32)
    for number in numbers_in(text):
        result[_tokens_of(number.start, number.end, offsets)] = number.value
    return result


def token_formulas(text: str, offsets: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """The compositions of the first formulas in a text; what was cut of the text counts for none.

    Args:
        text: the text.
        offsets: (L, 2) positions of its tokens, see `Tokenizer.encode_with_offsets`.
        most: largest number of formulas.

    Returns:
        (f, 2) int32, the first token of each formula and the one after its last; and
        (f, MAX_ATOMIC_NUMBER + 1) float32 atomic fractions.
    """
    spans: list[tuple[int, int]] = []
    fractions: list[np.ndarray] = []
    last = offsets[:, 1].max(initial=0)
    for formula in formulas_in(text):
        if len(spans) == most or formula.end > last:
            break
        tokens = np.flatnonzero(_tokens_of(formula.start, formula.end, offsets))
        spans.append((int(tokens[0]), int(tokens[-1]) + 1))
        fractions.append(formula.fractions)
    return (
        np.array(spans, np.int32).reshape(-1, 2),
        np.array(fractions, np.float32).reshape(-1, MAX_ATOMIC_NUMBER + 1),
    )


def _tokens_of(start: int, end: int, offsets: np.ndarray) -> np.ndarray:
    found: np.ndarray = (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return found
