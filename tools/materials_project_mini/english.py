"""Small pieces of English: numbers, lists, articles, plurals."""

from __future__ import annotations

from collections.abc import Sequence

_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
)  # fmt: skip


def number(n: int) -> str:
    """A count as a word up to sixteen, in digits beyond."""
    return _NUMBERS[n] if n < len(_NUMBERS) else str(n)


def fold(n: int) -> str:
    """A coordination number as in "sixfold" or "20-fold"."""
    return f"{_NUMBERS[n]}fold" if n < len(_NUMBERS) else f"{n}-fold"


def join(items: Sequence[str]) -> str:
    """The items as in "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    vowel = words[0].lower() in "aeiou" and not words.startswith(("uni", "eu", "one"))
    return f"{'an' if vowel else 'a'} {words}"


def capital(sentence: str) -> str:
    """The sentence with its first letter upper case."""
    return sentence[0].upper() + sentence[1:]


def atoms(n: int) -> str:
    """The word "atom" after one, else "atoms"."""
    return "atom" if n == 1 else "atoms"


def span(low: float, high: float) -> str:
    """A length or a range of lengths in angstrom."""
    if high - low < 0.015:
        return f"{(low + high) / 2:.2f} Å"
    return f"{low:.2f} to {high:.2f} Å"
