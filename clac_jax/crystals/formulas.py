"""Reduced formulas: in alphabetical order, to be compared, and as chemists write them."""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from fractions import Fraction

from clac_jax.crystals import elements

_DEEPEST = 8  # nested brackets

# IUPAC, Nomenclature of Inorganic Chemistry (2005), Table VI, from the least to the most
# electronegative; noble gases and elements beyond it come first.
_SEQUENCE = (
    "He Ne Ar Kr Xe Rn Fr Cs Rb K Na Li Ra Ba Sr Ca Mg Be "
    "Lr No Md Fm Es Cf Bk Cm Am Pu Np U Pa Th Ac "
    "Lu Yb Tm Er Ho Dy Tb Gd Eu Sm Pm Nd Pr Ce La Y Sc "
    "Hf Zr Ti Ta Nb V W Mo Cr Re Tc Mn Os Ru Fe Ir Rh Co Pt Pd Ni Au Ag Cu Hg Cd Zn "
    "Tl In Ga Al B Pb Sn Ge Si C Bi Sb As P N H Po Te Se S O At I Br Cl F"
)
_PLACES = {symbol: place for place, symbol in enumerate(_SEQUENCE.split())}


def counts_of(atomic_numbers: Iterable[int]) -> Counter[str]:
    """Number of atoms by element symbol."""
    return Counter(elements.symbol(int(number)) for number in atomic_numbers)


def alphabetical(counts: Mapping[str, int]) -> str:
    """The reduced formula with its elements in alphabetical order, as `Crystal.formula`.

    >>> alphabetical({"Ti": 2, "O": 4})
    'O2Ti'

    Args:
        counts: number of atoms by element symbol, at least 1 each.
    """
    return _reduced(counts, sorted(counts))


def conventional(counts: Mapping[str, int]) -> str:
    """The reduced formula in the order of IUPAC's element sequence.

    >>> conventional({"O": 4, "Cu": 2, "Sc": 2})
    'ScCuO2'

    Args:
        counts: number of atoms by element symbol, at least 1 each.
    """
    symbols = sorted(counts, key=lambda symbol: (_PLACES.get(symbol, -1), symbol))
    return _reduced(counts, symbols)


def counts_in(formula: str, count: str) -> dict[str, Fraction] | None:
    r"""The number of atoms of each element in a formula without spaces; None if it is not one.

    >>> {symbol: int(count) for symbol, count in counts_in("Ca3(PO4)2", r"\d*").items()}
    {'Ca': 3, 'P': 2, 'O': 8}

    Args:
        formula: symbols and groups in () or [], each with an optional count, which is not zero.
        count: regular expression of a count, decimal digits and a point; it may match nothing.
    """
    token_of = re.compile(rf"([A-Z][a-z]?|[()\[\]])({count})")
    groups: list[dict[str, Fraction]] = [defaultdict(Fraction)]
    at = 0
    while at < len(formula):
        token = token_of.match(formula, at)
        if token is None:
            return None
        at = token.end()
        name, number = token[1], Fraction(token[2] or 1)
        if name in "([":
            if token[2] or len(groups) > _DEEPEST:
                return None
            groups.append(defaultdict(Fraction))
        elif name in ")]":
            if len(groups) == 1:
                return None
            for symbol, inner in groups.pop().items():
                groups[-1][symbol] += inner * number
        elif elements.is_symbol(name):
            groups[-1][name] += number
        else:
            return None
        if not number:
            return None
    return dict(groups[0]) if len(groups) == 1 and groups[0] else None


def _reduced(counts: Mapping[str, int], symbols: Iterable[str]) -> str:
    divisor = functools.reduce(math.gcd, counts.values())
    parts = ((symbol, counts[symbol] // divisor) for symbol in symbols)
    return "".join(symbol + (str(count) if count > 1 else "") for symbol, count in parts)
