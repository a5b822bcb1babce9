"""The numbers written in a text."""

from __future__ import annotations

import re
from typing import NamedTuple

_MINUS = "-\u2212\u2013"
# Not the digits of a formula, an exponent, or a symbol such as P-43m or P6_3/mmc.
_START = rf"(?:(?<![{_MINUS}\w.^])|(?<=\d[{_MINUS}]))"
_NUMBER = re.compile(rf"{_START}([{_MINUS}]?)(\d{{1,9}}(?:\.\d{{1,9}})?)(?![\w^])")


class Number(NamedTuple):
    """A number in a text.

    Attributes:
        start: the position of its first character.
        end: the position after its last one.
        value: its value.
    """

    start: int
    end: int
    value: float


def numbers_in(text: str) -> list[Number]:
    """The numbers in a text, in their order: "2.08 angstrom", "No. 225", "-0.82 eV/atom"."""
    return [
        Number(*match.span(), float(match[2]) * (-1 if match[1] else 1))
        for match in _NUMBER.finditer(text)
    ]
