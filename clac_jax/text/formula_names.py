"""Formulas in queries, spelled out by the names of their elements.

Texts of crystals name the elements, and tokenizers split a formula on its own into pieces that have
no meaning ("gan"), so a model finds little by it: see docs/search.md, from `benchmarks.queries`.
"""

from __future__ import annotations

from clac_jax.crystals import elements
from clac_jax.text.formula import find_formulas
from clac_jax.text.formula_grammar import parse

MAX_WORDS = 60
"""Longer texts are left as they are: descriptions of crystals name the elements themselves."""


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
    """The names of its elements; none if it also has parts that are not elements."""
    text = "".join(formula.split())
    symbols: list[str] = []
    failed: set[int] = set()
    at = 0
    while at < len(text):
        parsed = parse(text, at, failed)
        if parsed is None:  # a coefficient, or the fraction in a mixture
            at += 1
            continue
        if parsed.organic or parsed.terminated:
            return []
        symbols += parsed.symbols
        at = parsed.end
    numbers = dict.fromkeys(elements.atomic_number(symbol) for symbol in symbols)
    return [elements.name(number) for number in numbers]


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
