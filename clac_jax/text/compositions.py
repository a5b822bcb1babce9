"""The compositions that the formulas in a text state."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from fractions import Fraction
from typing import NamedTuple
from unicodedata import numeric

import numpy as np

from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER, OTHER_NAMES, atomic_number, name
from clac_jax.crystals.formulas import counts_in
from clac_jax.text.formula import find_formulas
from clac_jax.text.formula_grammar import FRACTIONS, MIDDLE_DOT, ROMAN_STATE

_LONGEST = 200  # characters
_PLAIN = str.maketrans("₀₁₂₃₄₅₆₇₈₉{}", "0123456789()")
_DOT = re.compile(MIDDLE_DOT)
# In CuSO4.5H2O the count is 4, see `formula_grammar`.
_DOT_OF_WATER = re.compile(
    r"(?<=[A-Za-z)\]])([1-9]\d{0,2})?\.(?=\d{0,3}(?:[./]\d{1,3})?\(?[HD]2O\)?$)"
)
_BRACED = re.compile(r"_\{([^{}]*)\}")
_MARKUP = re.compile(r"_|~|\$|\\[()]|</?(?:sub|inf)>|\\(?:mathrm|textrm|text|rm|ce)(?=\()")
_COUNT = r"\d{1,4}(?:\.\d{1,6})?|\.\d{1,6}"
_COEFFICIENT = re.compile(rf"\d{{1,3}}/[1-9]\d{{0,2}}|{_COUNT}")
# Also FeIIFeIII2O4: no formula has iodine twice in a row.
_STATE = re.compile(rf"(?<=[A-Za-z]){ROMAN_STATE.pattern}|(?<=[a-z])II(?:I?(?=[A-HJ-Z(])|I(?=\d))")
_FRACTION = re.compile(rf"(\d*)([{FRACTIONS}])")
_DEUTERIUM = re.compile("D(?![a-z])")
# "of the Cu3Au (L1_2) structure type": the formula names an arrangement, not the compound. That of
# "the CsPbBr3 perovskite structure" names the compound.
_OF_A_STRUCTURE = re.compile(
    r"[$}]*\)?(?:\s\([^()]{1,40}\))?[\s\-\u2010\u2011\u2013]"
    r"(?:structure|structural\s(?:proto)?type|type|prototype)"
)

_ALL_NAMES = "|".join([*(name(number) for number in range(1, 119)), *OTHER_NAMES])
NOT_THE_VERB = (
    r"(?!(?<=\blead)(?<!\bfrom\slead)(?<!\bof\slead)\sto\b"
    rf"(?!\s(?:{_ALL_NAMES})\s(?:ratio|bond|distance)s?\b))"
)
"""Follows the name of an element; matches in "lead to tin ratio", not in "lead to a gap"."""


class Formula(NamedTuple):
    """A formula in a text.

    Attributes:
        start: the position of its first character.
        end: the position after its last one.
        fractions: (MAX_ATOMIC_NUMBER + 1,) float32, the atomic fraction of each element.
    """

    start: int
    end: int
    fractions: np.ndarray


def formulas_in(text: str) -> list[Formula]:
    """The formulas in a text that state a composition, in their order.

    One with a variable (`La2-xSrxCuO4`) states none, nor does one that names a structure type.

    >>> [(found.start, found.end) for found in formulas_in("rutile TiO2 and La2-xSrxCuO4")]
    [(7, 11)]
    """
    found = ((start, end, fractions(text[start:end])) for start, end in find_formulas(text))
    return [
        Formula(start, end, each)
        for start, end, each in found
        if each is not None and not _OF_A_STRUCTURE.match(text, end)
    ]


def elements_in(text: str) -> list[tuple[int, int, int]]:
    """The names of elements in a text: (start, end, atomic number) each.

    >>> elements_in("Lead and sulphur lead to a salt.")
    [(0, 4, 82), (9, 16, 16)]
    """
    pattern, numbers = _names()
    return [(*found.span(), numbers[found[0].lower()]) for found in pattern.finditer(text)]


@functools.cache
def _names() -> tuple[re.Pattern[str], dict[str, int]]:
    numbers = {name(number): number for number in range(1, MAX_ATOMIC_NUMBER + 1)} | OTHER_NAMES
    return re.compile(rf"\b(?:{'|'.join(numbers)})\b{NOT_THE_VERB}", re.IGNORECASE), numbers


@functools.lru_cache(maxsize=1 << 14)
def fractions(formula: str) -> np.ndarray | None:
    """(MAX_ATOMIC_NUMBER + 1,) float32, read-only: the atomic fractions of a formula.

    None if it states no composition: a variable, a vacancy, an element beyond `MAX_ATOMIC_NUMBER`.
    Groups are in (), [] or {}; the parts of a hydrate are separated by a middle dot, or by a full
    stop before water; subscripts may be marked up; deuterium is hydrogen; oxidation states in Roman
    numerals do not count.

    >>> {number: round(float(fractions("CaSO4·2H2O")[number]), 3) for number in (1, 8, 16, 20)}
    {1: 0.333, 8: 0.5, 16: 0.083, 20: 0.083}
    """
    counts = _counts(formula)
    if not counts:
        return None
    result = np.zeros(MAX_ATOMIC_NUMBER + 1, np.float32)
    total = sum(counts.values())
    for number, count in counts.items():
        result[number] = count / total
    result.setflags(write=False)
    return result


def _counts(formula: str) -> dict[int, float] | None:
    """Atomic number -> count; None if the formula states no composition."""
    if len(formula) > _LONGEST:
        return None
    text = _DOT.sub("*", "".join(formula.split()))
    text = _MARKUP.sub("", _BRACED.sub(r"\1", text).translate(_PLAIN))
    text = _FRACTION.sub(lambda found: f"{int(found[1] or 0) + numeric(found[2]):.6f}", text)
    text = _DEUTERIUM.sub("H", _DOT_OF_WATER.sub(r"\1*", _STATE.sub("", text)))
    total: dict[int, float] = defaultdict(float)
    for part in text.split("*"):
        coefficient = _COEFFICIENT.match(part)
        counts = counts_in(part[coefficient.end() :] if coefficient else part, f"(?:{_COUNT})?")
        if counts is None:
            return None
        units = float(Fraction(coefficient[0])) if coefficient else 1.0
        for symbol, count in counts.items():
            total[atomic_number(symbol)] += float(count) * units
    return total if all(total.values()) and max(total) <= MAX_ATOMIC_NUMBER else None
