"""Formulas in queries, spelled out by the names of their elements.

Texts of crystals name the elements, and tokenizers split a formula on its own into pieces that have
no meaning ("gan"), so a model finds little by it: see docs/search.md, from `benchmarks.queries`.
"""

from __future__ import annotations

import re

from clac_jax.crystals import elements
from clac_jax.text.formula import find_formulas

MAX_WORDS = 60
"""Longer texts are left as they are: descriptions of crystals name the elements themselves."""

_SYMBOL = re.compile(r"[A-Z][a-z]?")


def spelled_out(text: str) -> str:
    """A short text, followed by a sentence for each formula in it.

    >>> spelled_out("TiO2 for photocatalysis")
    'TiO2 for photocatalysis. TiO2 is a compound made of titanium and oxygen.'
    """
    if len(text.split()) > MAX_WORDS:
        return text
    sentences = []
    for formula in dict.fromkeys(text[start:end] for start, end in find_formulas(text)):
        names = _names(formula)
        if names and not all(name in text.lower() for name in names):
            kind = "a compound made of " if len(names) > 1 else ""
            sentences.append(f"{formula} is {kind}{_listed(names)}.")
    if not sentences:
        return text
    start = text.rstrip()
    return " ".join([start if start[-1] in ".!?" else start + ".", *sentences])


def _names(formula: str) -> list[str]:
    symbols = [symbol for symbol in _SYMBOL.findall(formula) if elements.is_symbol(symbol)]
    numbers = dict.fromkeys(elements.atomic_number(symbol) for symbol in symbols)
    return [elements.name(number) for number in numbers]


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
