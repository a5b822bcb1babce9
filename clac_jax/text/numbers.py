"""The numbers written in a text."""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

_MINUS = "-\u2010\u2011\u2212\u2013"  # hyphens, the minus sign, and the en dash
_A_MINUS = re.escape(_MINUS)  # For character classes, where a bare hyphen may make a range.
_SUPERSCRIPTS = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079\u207b\u207a"
_PLAIN = str.maketrans(_SUPERSCRIPTS + _MINUS, "0123456789-+" + "-" * len(_MINUS), ",")

# An exponent of ten: ^-3, ^{-3}, ^(-3), **-3, <sup>-3</sup>, $^{-3}$ or in Unicode superscripts.
_EXPONENT = rf"[+{_A_MINUS}]?\d{{1,2}}"
_RAISED = (
    rf"(?:\$\^\{{{_EXPONENT}\}}\$|\^\{{{_EXPONENT}\}}|(?:\^|\*\*){_EXPONENT}|\^\({_EXPONENT}\)"
    rf"|<sup>{_EXPONENT}</sup>|[{_SUPERSCRIPTS}]{{1,3}})"
)
_TIMES = r"(?:[\u00d7x*\u00b7\u22c5]|\$\\(?:times|cdot)\$|\\(?:times|cdot))"

_NUMBER = re.compile(
    rf"""
    (?<![\^_]\{{)(?<!<su[bp]>)(?<!<inf>)  # Not in the markup of an exponent or a subscript.
    (?:
        # A minus sign follows a space or an opening character; after a digit it is a range's dash.
        (?P<sign> (?:^|(?<=[\s(\[{{=<>~\u2248\u2264\u2265:;,|\u00d7*"']))
                  (?:[-\u2010\u2011\u2212]|(?<!\d\s)\u2013))
        # Not the digits of a formula, an exponent, an uncertainty such as 2.08(3), or a symbol
        # such as P-43m or P6_3/mmc.
        | (?<![{_A_MINUS}\w.^)\]])(?<!\d\()
        | (?<=[\d\u00b0%)][{_A_MINUS}]) | (?<=[\u00c5\u212b]\u2013) | (?<=\d\s\u2013) | (?<=No\.)
    )
    (?:
        10(?P<ten>{_RAISED})
        |(?P<mantissa> (?:[1-9]\d{{0,2}}(?:,\d{{3}}){{1,3}}(?!,?\d)|\d{{1,9}})(?:\.\d{{1,30}})?)
        (?:[eE](?P<e>[+{_A_MINUS}]?\d{{1,2}})
           |\s?{_TIMES}\s?10(?P<power>{_RAISED}))?
    )
    # Its end: not part of a word, except for a unit.
    (?: (?![\w^]|\.\d) | (?=(?:\u00c5|\u212b|m?eV|GPa|K|nm|pm)(?!\w)) )
    """,
    re.VERBOSE,
)
_NOT_OF_EXPONENT = re.compile(r"[^\d+-]")
_LARGEST = float(np.finfo(np.float32).max)


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
    """The numbers in a text, in their order; all are within the range of float32.

    Decimals are written with a point; a comma before three digits separates thousands. The two ends
    of a range are two numbers.

    >>> [each.value for each in numbers_in("No. 225, 2.13-2.16 angstrom, -0.82 eV, Al2O3, g/cm^3")]
    [225.0, 2.13, 2.16, -0.82]
    >>> [each.value for each in numbers_in("1,200 K, 2.5*10^3, 1e-3, 3:1, P-43m, 2H-MoS2")]
    [1200.0, 2500.0, 0.001, 3.0, 1.0]
    """
    found = (Number(*match.span(), _value(match)) for match in _NUMBER.finditer(text))
    return [number for number in found if abs(number.value) <= _LARGEST]


def _value(match: re.Match[str]) -> float:
    exponent = (match["e"] or match["power"] or match["ten"] or "0").translate(_PLAIN)
    mantissa = (match["mantissa"] or "1").translate(_PLAIN)
    try:
        value = float(f"{mantissa}e{_NOT_OF_EXPONENT.sub('', exponent)}")
    except ValueError:  # superscripts in disorder
        return float("inf")
    return -value if match["sign"] else value
