"""Numeric properties of crystals, and the sentences of queries that state a value of them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clac_jax.crystals import elements
from clac_jax.datasets.record import PROPERTIES, Record

DENSITY = "density"
MIN_KNOWN = 50
"""Smallest number of crystals with a known value for which a property is evaluated."""

_GRAMS = 1.66053907  # g/cm^3 per u/angstrom^3
_ROUNDING_DIGITS = 3  # significant digits of the spread of a property that is not listed below


@dataclass(frozen=True)
class Quantity:
    """A numeric property and how texts state it.

    Attributes:
        name: name of the property in the records.
        noun: the words for it in a sentence.
        unit: unit, "" if it has none.
        decimals: number of decimals that texts state.
        pattern: regular expression found in sentences that state it.
    """

    name: str
    noun: str
    unit: str
    decimals: int
    pattern: str

    def amount(self, value: float) -> str:
        """A value with its unit, as written in texts: "1.50 eV"."""
        shown = f"{value + 0.0:.{self.decimals}f}"
        if float(shown) == 0:
            shown = shown.lstrip("-")
        return f"{shown} {self.unit}".rstrip()

    def rounded(self, values: np.ndarray) -> np.ndarray:
        """The values with the number of decimals that texts state."""
        return np.round(values, self.decimals) + 0.0  # no -0

    def equal_to(self, value: float) -> list[str]:
        """Queries for crystals with a value, in several wordings."""
        it, noun = self.amount(value), self.noun
        return [
            f"The {noun} of this material is {it}.",
            f"A material with {_article(noun)} of {it}.",
            f"It has {_article(noun)} of {it}.",
        ]

    def greater_than(self, value: float) -> list[str]:
        """Queries for crystals with more than a value, in several wordings."""
        it, noun = self.amount(value), self.noun
        return [
            f"The {noun} of this material is greater than {it}.",
            f"A material with {_article(noun)} above {it}.",
            f"It has {_article(noun)} of more than {it}.",
        ]

    def less_than(self, value: float) -> list[str]:
        """Queries for crystals with less than a value, in several wordings."""
        it, noun = self.amount(value), self.noun
        return [
            f"The {noun} of this material is less than {it}.",
            f"A material with {_article(noun)} below {it}.",
            f"It has {_article(noun)} of less than {it}.",
        ]


def both(first: Quantity, a: float, second: Quantity, b: float) -> list[str]:
    """Queries for crystals with a value of each of two quantities, in several wordings."""
    x, y = first.amount(a), second.amount(b)
    return [
        f"The {first.noun} of this material is {x} and its {second.noun} is {y}.",
        f"A material with {_article(first.noun)} of {x} and {_article(second.noun)} of {y}.",
        f"It has {_article(first.noun)} of {x} and {_article(second.noun)} of {y}.",
    ]


_LISTED = {
    quantity.name: quantity
    for quantity in (
        Quantity("band gap", "band gap", "eV", 2, r"\bgap"),
        Quantity(
            "formation energy per atom", "formation energy", "eV/atom", 2,
            r"formation energy|from the elements",
        ),
        Quantity("energy above hull", "energy above hull", "eV/atom", 3, r"\bhull"),
        Quantity(DENSITY, "density", "g/cm^3", 2, r"\bdensity of"),
        Quantity("bulk modulus", "bulk modulus", "GPa", 0, r"\bbulk\b"),
        Quantity("shear modulus", "shear modulus", "GPa", 0, r"\bshear\b"),
        Quantity("poisson ratio", "Poisson ratio", "", 2, r"\bPoisson"),
        Quantity("elastic anisotropy", "universal elastic anisotropy", "", 2, r"\banisotropy"),
        Quantity("refractive index", "refractive index", "", 2, r"\brefractive"),
        Quantity("dielectric constant", "dielectric constant", "", 1, r"\bdielectric constant"),
        Quantity(
            "electronic dielectric constant", "electronic dielectric constant", "", 1,
            r"\bdielectric constant",
        ),
        Quantity("piezoelectric modulus", "piezoelectric modulus", "C/m^2", 2, r"\bpiezoelectric"),
        Quantity(
            "total magnetization", "total magnetization", "Bohr magnetons", 2, r"\bmagneti[zs]ation"
        ),
    )
}  # fmt: skip


def quantities_of(records: Sequence[Record]) -> dict[Quantity, np.ndarray]:
    """The quantities that enough records have, with their values.

    Queries state properties of `clac_jax.datasets.record.PROPERTIES` in their units, and other
    numeric properties of the data by their name, without a unit. The density follows from the
    crystal where the data do not have it.

    Returns:
        Quantity -> (n,) float64 values of all records, NaN where unknown. Only quantities with at
        least MIN_KNOWN finite values that are not all equal.
    """
    others = sorted({name for record in records for name in record.properties} - set(PROPERTIES))
    found = {}
    for name in (*_LISTED, *others):
        values = np.array([_value(record, name) for record in records], np.float64)
        known = values[np.isfinite(values)]
        if len(known) < MIN_KNOWN or np.ptp(known) == 0:
            continue
        found[_LISTED.get(name) or _unlisted(name, known)] = values
    return found


def density_of(record: Record) -> float:
    """Mass density of the crystal of a record, g/cm^3, from standard atomic weights."""
    mass = float(elements.atomic_weights()[record.atomic_numbers].astype(np.float64).sum())
    return _GRAMS * mass / abs(float(np.linalg.det(record.lattice)))


def _value(record: Record, name: str) -> float:
    value = record.properties.get(name)
    if value is None or not math.isfinite(value):
        return density_of(record) if name == DENSITY else math.nan
    return float(value)


def _unlisted(name: str, known: np.ndarray) -> Quantity:
    """A quantity that only the data know, with decimals according to the spread of its values."""
    low, high = np.percentile(known, (5, 95))
    spread = float(high - low) or float(np.ptp(known))
    decimals = max(0, _ROUNDING_DIGITS - 1 - math.floor(math.log10(spread)))
    words = name.replace("_", " ")
    return Quantity(name, words, "", decimals, rf"(?i)\b{re.escape(words)}\b")


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeioAEIO" else f"a {noun}"
