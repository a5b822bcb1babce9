"""Reduced formulas: in alphabetical order, to be compared, and as chemists write them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping

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


def _reduced(counts: Mapping[str, int], symbols: Iterable[str]) -> str:
    divisor = functools.reduce(math.gcd, counts.values())
    parts = ((symbol, counts[symbol] // divisor) for symbol in symbols)
    return "".join(symbol + (str(count) if count > 1 else "") for symbol, count in parts)
