"""Columns that colour and filter the points of a map: numbers and categories of the items."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

FAMILY = "family"
OWN_RANK = "own_rank"
MODALITY = "modality"
SIMILARITY = "similarity"

# Column of the index -> (label, unit); any other column is shown under its own name.
LABELS = {
    "formation_energy_per_atom": ("Formation energy", "eV/atom"),
    "band_gap": ("Band gap", "eV"),
    "energy_above_hull": ("Energy above hull", "eV/atom"),
    "bulk_modulus": ("Bulk modulus", "GPa"),
    "shear_modulus": ("Shear modulus", "GPa"),
    "poisson_ratio": ("Poisson ratio", ""),
    "elastic_anisotropy": ("Elastic anisotropy", ""),
    "refractive_index": ("Refractive index", ""),
    "dielectric_constant": ("Dielectric constant", ""),
    "electronic_dielectric_constant": ("Electronic dielectric constant", ""),
    "piezoelectric_modulus": ("Piezoelectric modulus", "C/m²"),
    "density": ("Density", "g/cm³"),
    "volume_per_atom": ("Volume per atom", "Å³"),
    "n_atoms": ("Atoms in the cell", ""),
    "n_elements": ("Number of elements", ""),
    "crystal_system": ("Crystal system", ""),
    "space_group": ("Space group", ""),
    FAMILY: ("Compound family", ""),
    OWN_RANK: ("Rank of its own text", ""),
    MODALITY: ("Crystal or text", ""),
    SIMILARITY: ("Cosine to the query", ""),
}
FACTS = ("n_atoms", "n_elements", "volume_per_atom", "density", "space_group")
"""Numbers that every crystal has, unlike properties."""

# The first of these in a crystal decides: the non-metals by falling electronegativity (Pauling).
_ANIONS = (
    "F", "O", "Cl", "N", "Br", "I", "S", "Se", "C",
    "H", "P", "As", "Te", "Sb", "B", "Bi", "Ge", "Si",
)  # fmt: skip
_FAMILIES = {
    "Oxides": "O",
    "Halides": "F Cl Br I",
    "Chalcogenides": "S Se Te",
    "Pnictides": "N P As Sb Bi",
    "C, B, Si, Ge, H compounds": "C B Si Ge H",
}
_INTERMETALLICS = "Intermetallics"
_ELEMENTS = "Elements"
FAMILIES = (*_FAMILIES, _INTERMETALLICS, _ELEMENTS)
_FAMILY_OF = {symbol: family for family, symbols in _FAMILIES.items() for symbol in symbols.split()}

CRYSTAL_SYSTEMS = (
    "cubic", "hexagonal", "trigonal", "tetragonal", "orthorhombic", "monoclinic", "triclinic",
)  # fmt: skip
MAX_CATEGORIES = 12
"""A text column with more different values (a source, a comment) is listed, but not a colour."""
NO_VALUE = 255
"""The code of a crystal without the category."""


@dataclass(frozen=True)
class Column:
    """One value per crystal.

    Attributes:
        key: name in the index, in the address of the page and in `--colour`.
        label: name for readers.
        unit: unit, or "".
        values: (N,) float32, NaN where unknown; or (N,) uint8 codes into `categories`, `NO_VALUE`
            where unknown.
        categories: names of the categories; None for a number.
        low: value at the lower end of the colour scale (1st percentile); 0 for categories.
        high: value at its upper end (99th percentile).
        is_log: whether the scale is logarithmic: positive values over several decades.
    """

    key: str
    label: str
    unit: str
    values: np.ndarray
    categories: tuple[str, ...] | None = None
    low: float = 0.0
    high: float = 1.0
    is_log: bool = False

    @property
    def title(self) -> str:
        """Label with the unit in brackets."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def family(elements: Iterable[str]) -> str:
    """The family of a compound, one of `FAMILIES`, by its most electronegative non-metal.

    >>> family(["Ti", "O", "Ba"]), family(["O", "F", "La"]), family(["Ni", "Al"])
    ('Oxides', 'Halides', 'Intermetallics')
    """
    present = set(elements)
    if len(present) == 1:
        return _ELEMENTS
    return next((_FAMILY_OF[anion] for anion in _ANIONS if anion in present), _INTERMETALLICS)


def number(key: str, values: Sequence[Any] | np.ndarray) -> Column:
    """A column of numbers, with the range of its colour scale; infinities count as unknown."""
    array = np.array([np.nan if v is None else v for v in values], np.float32)
    array[~np.isfinite(array)] = np.nan
    label, unit = LABELS.get(key, (_readable(key), ""))
    known = array[np.isfinite(array)]
    if not len(known):
        return Column(key, label, unit, array)
    low, middle, high = np.quantile(known, [0.01, 0.5, 0.99]).astype(float)
    is_log = bool(known.min() > 0 and high > 20 * max(middle, 1e-30))
    if low == high:
        low, high = float(known.min()), float(known.max())
    if low == high:
        high = low + 1.0
    return Column(key, label, unit, array, None, float(low), float(high), is_log)


def category(key: str, values: Sequence[str | None], order: Sequence[str] = ()) -> Column:
    """A column of categories: those of `order` that occur, in that order, then any other."""
    present = {value for value in values if value is not None}
    names = [name for name in order if name in present] + sorted(present - set(order))
    codes = {name: code for code, name in enumerate(names[:NO_VALUE])}
    array = np.array([codes.get(v, NO_VALUE) if v is not None else NO_VALUE for v in values])
    label, unit = LABELS.get(key, (_readable(key), ""))
    return Column(key, label, unit, array.astype(np.uint8), tuple(codes))


def columns_of(table: Any) -> list[Column]:
    """The columns of an index's items that are numbers or have few categories.

    Args:
        table: `pyarrow.Table` of the items, without texts and structures.

    Returns:
        The family first, then categories and numbers in the order of the table; a column
        with no value is left out.
    """
    import pyarrow.types as types

    families = [family(elements or ()) for elements in table["elements"].to_pylist()]
    result = [category(FAMILY, families, FAMILIES)]
    for field in table.schema:
        if field.name in ("id", "formula", "elements", "text"):
            continue
        values = table[field.name].to_pylist()
        if all(value is None for value in values):
            continue
        if types.is_string(field.type) or types.is_large_string(field.type):
            if len({v for v in values if v is not None}) <= MAX_CATEGORIES:
                result.append(category(field.name, values, CRYSTAL_SYSTEMS))
        elif types.is_boolean(field.type):
            words = [None if v is None else "yes" if v else "no" for v in values]
            result.append(category(field.name, words, ("yes", "no")))
        elif types.is_integer(field.type) or types.is_floating(field.type):
            result.append(number(field.name, values))
    return result


def _readable(key: str) -> str:
    text = key.replace("_", " ").strip() or key
    return text[0].upper() + text[1:]
