"""Conversion between crystals and the objects of pymatgen and ASE, by their attributes.

Reading imports neither library; only `to_pymatgen` and `to_ase` need the respective package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from clac_jax.crystals import elements
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import (
    CrystalError,
    check_count,
    coordinates_of,
    element_of,
    floats_of,
    lattice_of,
    shown,
)
from clac_jax.errors import UserError

_FULL = 1e-3  # tolerance of an occupancy of 1
_ISOTOPES = ("D", "T")  # of hydrogen, which have symbols of their own


class MissingPackageError(UserError, ImportError):
    """An operation needs an optional package that is not installed."""


def is_pymatgen(value: Any) -> bool:
    """Whether an object looks like a pymatgen `Structure` (a `Molecule` has no lattice)."""
    return all(hasattr(value, name) for name in ("lattice", "sites", "frac_coords"))


def is_ase(value: Any) -> bool:
    """Whether an object looks like an ASE `Atoms`."""
    return all(hasattr(value, name) for name in ("cell", "pbc", "numbers", "positions"))


def from_pymatgen(structure: Any) -> Crystal:
    """Reads a pymatgen `Structure`; see `Crystal.from_pymatgen`."""
    if not is_pymatgen(structure):
        raise CrystalError(f"{shown(structure)} is not a pymatgen Structure. Give one.")
    _check_periodic(getattr(structure.lattice, "pbc", (True, True, True)))
    sites = list(structure.sites)
    check_count(len(sites))
    numbers = [_element_of_site(k, site.species.items()) for k, site in enumerate(sites)]
    positions = np.array([site.coords for site in sites], np.float64)
    lattice = np.array(structure.lattice.matrix, np.float64)
    return Crystal(lattice, np.array(numbers, np.int32), positions)


def from_structure_dict(values: Mapping[str, Any]) -> Crystal:
    """Reads the `as_dict()` of a pymatgen `Structure`, without pymatgen.

    Args:
        values: `lattice` with `matrix` (3 x 3, angstrom, rows are cell vectors), and `sites` with
            `species` (a list of `element` and `occu`) and `abc` (fractional coordinates).

    Raises:
        CrystalError: a key is missing, or the structure is not one ordered crystal.
    """
    lattice, sites = values.get("lattice"), values.get("sites")
    if not isinstance(lattice, Mapping) or "matrix" not in lattice:
        raise CrystalError('The structure has no "lattice" with a "matrix". Add it.')
    if not isinstance(sites, list | tuple) or not all(isinstance(s, Mapping) for s in sites):
        raise CrystalError('The "sites" of the structure are not a list of dicts. Correct them.')
    pbc = lattice.get("pbc", (True, True, True))
    if not isinstance(pbc, list | tuple) or len(pbc) != 3:
        raise CrystalError('The "pbc" of the lattice are not three booleans. Correct them.')
    _check_periodic(pbc)
    check_count(len(sites))
    matrix = lattice_of(lattice["matrix"])
    numbers = [_element_of_site(k, _species(k, site)) for k, site in enumerate(sites)]
    fractions = coordinates_of([site.get("abc") for site in sites], len(sites))
    return Crystal(matrix, np.array(numbers, np.int32), fractions @ matrix)


def _species(index: int, site: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Elements and occupancies of a site in a dict; those of two charges are listed apart.

    Raises:
        CrystalError: the site has no such list.
    """
    species = site.get("species")
    if not isinstance(species, list | tuple) or not all(isinstance(s, Mapping) for s in species):
        raise CrystalError(f'Site {index} has no list "species". Add it.')
    occupancies = floats_of([s.get("occu", 1.0) for s in species], "occu", (len(species),))
    names = [str(s.get("element")) for s in species]
    return list(zip(names, map(float, occupancies), strict=True))


def from_ase(atoms: Any) -> Crystal:
    """Reads an ASE `Atoms` object; see `Crystal.from_ase`."""
    if not is_ase(atoms):
        raise CrystalError(f"{shown(atoms)} is not an ASE Atoms object. Give one.")
    check_count(len(atoms.numbers))
    _check_periodic(atoms.pbc)
    occupancies = _info(atoms).get("occupancy") or {}
    if not isinstance(occupancies, Mapping) or not all(
        isinstance(occupancy, Mapping) for occupancy in occupancies.values()
    ):
        raise CrystalError(
            'Its info["occupancy"] does not give the elements of each site kind, as ASE writes '
            'them: {"0": {"Na": 1.0}}. Correct it, or delete it if all sites are full.'
        )
    for kind, occupancy in occupancies.items():
        names = list(occupancy)
        parts = floats_of([occupancy[name] for name in names], "occupancy", (len(names),))
        _check_occupancy(f"The site kind {kind}", zip(names, map(float, parts), strict=True))
    return Crystal(
        np.array(atoms.cell, np.float64),
        np.array(atoms.numbers),
        np.array(atoms.positions, np.float64),
    )


def to_pymatgen(crystal: Crystal) -> Any:
    """Converts to a pymatgen `Structure`; see `Crystal.to_pymatgen`."""
    try:
        from pymatgen.core.lattice import Lattice
        from pymatgen.core.structure import Structure
    except ImportError as error:
        raise MissingPackageError(
            "to_pymatgen needs pymatgen, which is not installed. Install it with "
            "`pip install pymatgen`."
        ) from error
    symbols = [elements.symbol(int(number)) for number in crystal.atomic_numbers]
    lattice = Lattice(crystal.lattice)
    return Structure(lattice, symbols, crystal.positions, coords_are_cartesian=True)


def to_ase(crystal: Crystal) -> Any:
    """Converts to an ASE `Atoms` object; see `Crystal.to_ase`."""
    try:
        from ase import Atoms
    except ImportError as error:
        raise MissingPackageError(
            "to_ase needs ASE, which is not installed. Install it with `pip install ase`."
        ) from error
    return Atoms(
        numbers=crystal.atomic_numbers,
        positions=crystal.positions,
        cell=crystal.lattice,
        pbc=True,
    )


def _info(atoms: Any) -> Mapping[str, Any]:
    info = getattr(atoms, "info", None)
    return info if isinstance(info, Mapping) else {}


def _check_periodic(pbc: Any) -> None:
    """Rejects molecules, chains and slabs, if declared as such.

    Raises:
        CrystalError: a direction is not periodic.
    """
    flags = [bool(flag) for flag in pbc]
    if not all(flags):
        axes = ", ".join(axis for axis, flag in zip("abc", flags, strict=True) if not flag)
        raise CrystalError(
            f"It is not periodic along {axes} (pbc). Only crystals can be used: set pbc to True in "
            "all three directions if it is one."
        )


def _element_of_site(index: int, species: Iterable[tuple[Any, float]]) -> int:
    """The atomic number of the element that fully occupies a site.

    Args:
        index: index of the site, for messages.
        species: elements or species, and their occupancies.

    Raises:
        CrystalError: the site is mixed, partially occupied, or not occupied by an element.
    """
    symbols = ((str(getattr(one, "symbol", one)), float(part)) for one, part in species)
    return element_of(_check_occupancy(f"Site {index}", symbols))


def _check_occupancy(site: str, species: Iterable[tuple[str, float]]) -> str:
    """The symbol of the element that fully occupies a site, by any of its charges and isotopes.

    Raises:
        CrystalError: the site is mixed or partially occupied.
    """
    occupancy: dict[str, float] = {}
    for name, part in species:
        symbol = "H" if name in _ISOTOPES else name
        occupancy[symbol] = occupancy.get(symbol, 0.0) + part
    if len(occupancy) == 1 and abs(next(iter(occupancy.values())) - 1.0) <= _FULL:
        return next(iter(occupancy))
    shares = ", ".join(f"{name} {part:.3g}" for name, part in occupancy.items()) or "nothing"
    raise CrystalError(
        f"{site} is not fully occupied by one element ({shares}). Only ordered crystals can be "
        "used: replace it with an ordered cell."
    )
