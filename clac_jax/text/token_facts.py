"""The numbers and compositions that a text states, and the tokens that state them."""

from __future__ import annotations

import numpy as np

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.text.compositions import elements_in, formulas_in
from clac_jax.text.numbers import numbers_in


def token_numbers(text: str, offsets: np.ndarray, shown: np.ndarray | None = None) -> np.ndarray:
    """(L,) float32: for each token of a number its value, else NaN.

    The tokens that are left of a number that was cut have the value of all of it.

    Args:
        text: the text.
        offsets: (L, 2) positions of its tokens, see `Tokenizer.encode_with_offsets`.
        shown: (L,) bool, False for masked tokens: no token of a number with such a one has its
            value, which would give the masked digits away. None: all are shown.
    """
    result = np.full(len(offsets), np.nan, np.float32)
    for number in numbers_in(text):
        tokens = _tokens_of(number.start, number.end, offsets)
        if shown is None or shown[tokens].all():
            result[tokens] = number.value
    return result


def token_composition(
    text: str, offsets: np.ndarray, shown: np.ndarray | None = None
) -> np.ndarray:
    """The composition that the tokens of a text state.

    Args:
        text: the text.
        offsets: (L, 2) positions of its tokens, see `Tokenizer.encode_with_offsets`.
        shown: (L,) bool, False for masked tokens: a formula or name with such a token, or of which
            a part was cut, states nothing. None: all are shown.

    Returns:
        (2, MAX_ATOMIC_NUMBER + 1) float32: the mean atomic fractions over the formulas, 0 if there
        are none; and 1 for each element that is named or is in a formula.
    """
    shown = np.ones(len(offsets), bool) if shown is None else shown
    last = offsets[:, 1].max(initial=0)

    def is_shown(start: int, end: int) -> bool:
        return end <= last and bool(shown[_tokens_of(start, end, offsets)].all())

    result = np.zeros((2, MAX_ATOMIC_NUMBER + 1), np.float32)
    formulas = [each.fractions for each in formulas_in(text) if is_shown(each.start, each.end)]
    if formulas:
        result[0] = np.mean(formulas, axis=0)
    for start, end, number in elements_in(text):
        result[1, number] = max(result[1, number], is_shown(start, end))
    result[1] = np.maximum(result[1], result[0] > 0)
    return result


def _tokens_of(start: int, end: int, offsets: np.ndarray) -> np.ndarray:
    found: np.ndarray = (offsets[:, 0] < end) & (offsets[:, 1] > start)
    return found
