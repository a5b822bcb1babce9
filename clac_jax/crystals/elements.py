"""Element data: RDKit's periodic table and the 92-dimensional CGCNN atom features."""

from __future__ import annotations

import functools
import json
from importlib import resources

import numpy as np
from rdkit import Chem

from clac_jax.errors import UserError

MAX_ATOMIC_NUMBER = 100
"""The heaviest element with an atom feature vector."""
NUM_FEATURES = 92
"""The length of an atom feature vector."""
DALTON_PER_CUBIC_ANGSTROM = 1.66053906660
"""One dalton per cubic angstrom, g/cm^3 (CODATA 2018)."""

_TABLE = Chem.GetPeriodicTable()
# Looked up by number, because RDKit prints a stack trace for an unknown symbol.
_SYMBOLS = tuple(_TABLE.GetElementSymbol(z) for z in range(119))
_NUMBERS = {symbol: z for z, symbol in enumerate(_SYMBOLS) if z > 0} | {"D": 1, "T": 1}

_AMERICAN = {"aluminium": "aluminum", "caesium": "cesium", "sulphur": "sulfur"}


class ElementError(UserError, ValueError):
    """Not a symbol or atomic number of a chemical element."""


def is_symbol(text: str) -> bool:
    """Whether the text is the symbol of an element (deuterium and tritium count as hydrogen)."""
    return text in _NUMBERS


def atomic_number(symbol: str) -> int:
    """Atomic number of an element symbol; D and T give 1.

    Raises:
        ElementError: the symbol is unknown.
    """
    if symbol not in _NUMBERS:
        raise ElementError(f"{symbol!r} is not an element. Use symbols such as Fe.")
    return _NUMBERS[symbol]


def symbol(number: int) -> str:
    """Element symbol of an atomic number.

    Raises:
        ElementError: the number is not from 1 to 118.
    """
    if not 1 <= number <= 118:
        raise ElementError(f"{number} is not an atomic number. Use 1 to 118.")
    return _SYMBOLS[number]


OTHER_NAMES = {"aluminium": 13, "caesium": 55, "sulphur": 16, "wolfram": 74}
"""Names of elements in other spellings and languages than those of `name`: atomic numbers."""


def name(number: int) -> str:
    """English name of an element in lower case, in American spelling ("aluminum", "cesium").

    Raises:
        ElementError: the number is not from 1 to 118.
    """
    symbol(number)  # raises
    british = str(_TABLE.GetElementName(number)).lower()
    return _AMERICAN.get(british, british)


@functools.cache
def atom_features() -> np.ndarray:
    """The atom feature vectors of Xie and Grossman, PRL 120, 145301 (2018).

    Returns:
        (MAX_ATOMIC_NUMBER + 1, 92) float32, read-only; indexed by atomic number, row 0 (padding) is
        zero.
        One-hot blocks: group, period, electronegativity, covalent radius, valence electrons, first
        ionization energy, electron affinity, block, atomic volume.
    """
    file = resources.files("clac_jax") / "resources" / "cgcnn_atom_features.json"
    vectors = json.loads(file.read_text(encoding="utf-8"))
    table = np.zeros((MAX_ATOMIC_NUMBER + 1, NUM_FEATURES), np.float32)
    for number, vector in vectors.items():
        table[int(number)] = vector
    table.flags.writeable = False
    return table


@functools.cache
def atomic_weights() -> np.ndarray:
    """(MAX_ATOMIC_NUMBER + 1,) float32, read-only: atomic weights, dalton; 0 for padding."""
    table = np.array(
        [0, *(_TABLE.GetAtomicWeight(z) for z in range(1, MAX_ATOMIC_NUMBER + 1))], np.float32
    )
    table.flags.writeable = False
    return table


@functools.cache
def covalent_radii() -> np.ndarray:
    """(MAX_ATOMIC_NUMBER + 1,) float64, read-only: covalent radii, angstrom; 0 for padding."""
    table = np.array([0, *(_TABLE.GetRcovalent(z) for z in range(1, MAX_ATOMIC_NUMBER + 1))])
    table.flags.writeable = False
    return table
