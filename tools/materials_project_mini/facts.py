"""Computed facts about a crystal: symmetry, neighbors, bond lengths, connectivity."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from pymatgen.analysis.local_env import CrystalNN
from pymatgen.core import Element, Lattice, Structure

from tools.materials_project_mini.geometry import Bond, dimensionality, shape, sharing

SYMMETRY_TOLERANCE = 0.05  # angstrom; the crystals are relaxed by DFT
CONTACT_CUTOFF = 4.0  # angstrom, reach of Facts.contacts

_CRYSTAL_SYSTEMS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)
_POLAR = frozenset({"1", "2", "m", "mm2", "4", "4mm", "3", "3m", "6", "6mm"})
_CENTRIC = frozenset(
    {"-1", "2/m", "mmm", "4/m", "4/mmm", "-3", "-3m", "6/m", "6/mmm", "m-3", "m-3m"}
)


@dataclass(frozen=True)
class Site:
    """A symmetry orbit of atoms and its coordination.

    Attributes:
        element: element symbol.
        multiplicity: number of atoms of the orbit in the given cell.
        wyckoff: Wyckoff letter.
        neighbors: symbol -> number of bonded atoms (CrystalNN).
        lengths: symbol -> (shortest, longest) bond, angstrom.
        shape: "octahedral", ...; None if it has no simple name.
        sharing: how polyhedra around this element join through shared atoms.
    """

    element: str
    multiplicity: int
    wyckoff: str
    neighbors: dict[str, int]
    lengths: dict[str, tuple[float, float]]
    shape: str | None
    sharing: tuple[str, ...]

    @property
    def coordination(self) -> int:
        """Number of bonded atoms."""
        return sum(self.neighbors.values())


@dataclass(frozen=True)
class Facts:
    """The facts about the structure of a crystal that a narrative can use.

    Attributes:
        material_id: id of the row.
        formula: formula as written in the data set.
        counts: symbol -> number of atoms per reduced formula unit.
        num_sites: number of atoms in the given (primitive) cell.
        space_group: international symbol, "P6_3/mmc".
        space_group_number: 1 to 230.
        crystal_system: crystal system of the space group.
        centric: whether there is an inversion center.
        polar: whether the point group is polar.
        density: g/cm^3.
        volume_per_atom: cubic angstrom.
        lattice: a, b, c (angstrom), alpha, beta, gamma (degrees) of the conventional cell.
        sites: one entry per symmetry orbit.
        contacts: two symbols in alphabetic order -> shortest distance under 4 angstrom.
        pieces: dimensionality of each bonded piece, sorted.
    """

    material_id: str
    formula: str
    counts: dict[str, int]
    num_sites: int
    space_group: str
    space_group_number: int
    crystal_system: str
    centric: bool
    polar: bool
    density: float
    volume_per_atom: float
    lattice: tuple[float, float, float, float, float, float]
    sites: tuple[Site, ...]
    contacts: dict[tuple[str, str], float]
    pieces: tuple[int, ...]

    def of(self, element: str) -> list[Site]:
        """The sites of one element."""
        return [site for site in self.sites if site.element == element]


def crystal_system(number: int) -> str:
    """The crystal system of a space group number."""
    return next(name for last, name in _CRYSTAL_SYSTEMS if number <= last)


def compute_facts(row: dict[str, Any]) -> Facts:
    """Computes the facts of a row (material_id, formula, lattice, atomic_numbers, frac_coords)."""
    structure = Structure(
        Lattice(np.reshape(row["lattice"], (3, 3))),
        [Element.from_Z(z) for z in row["atomic_numbers"]],
        np.reshape(row["frac_coords"], (-1, 3)),
    )
    cell = (structure.lattice.matrix, structure.frac_coords, row["atomic_numbers"])
    symmetry = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY_TOLERANCE)
    standard = Lattice(symmetry.std_lattice)
    bonds = _bonds(structure, symmetry)
    return Facts(
        material_id=row["material_id"],
        formula=row["formula"],
        counts={
            element.symbol: int(n)
            for element, n in structure.composition.element_composition.reduced_composition.items()
        },
        num_sites=len(structure),
        space_group=symmetry.international,
        space_group_number=symmetry.number,
        crystal_system=crystal_system(symmetry.number),
        centric=symmetry.pointgroup in _CENTRIC,
        polar=symmetry.pointgroup in _POLAR,
        density=float(structure.density),
        volume_per_atom=structure.volume / len(structure),
        lattice=(*map(float, standard.abc), *map(float, standard.angles)),
        sites=_sites(structure, symmetry, bonds),
        contacts=_contacts(structure),
        pieces=dimensionality(bonds),
    )


def _contacts(structure: Structure) -> dict[tuple[str, str], float]:
    first, second, _, distances = structure.get_neighbor_list(CONTACT_CUTOFF)
    shortest: dict[tuple[str, str], float] = {}
    for i, j, distance in zip(first, second, distances, strict=True):
        pair = tuple(sorted((structure[i].specie.symbol, structure[j].specie.symbol)))
        shortest[pair] = min(float(distance), shortest.get(pair, np.inf))
    return shortest


def _bonds(structure: Structure, symmetry: Any) -> list[list[Bond]]:
    """The bonds of every atom by CrystalNN (Pan et al., Inorg. Chem. 60, 1590 (2021)).

    CrystalNN looks at one atom per orbit; symmetry carries its bonds to the other atoms.
    """
    finder = CrystalNN(distance_cutoffs=(0.5, 1), x_diff_weight=3.0)
    points = structure.frac_coords
    matrix = structure.lattice.matrix
    bonds: list[list[Bond]] = [[] for _ in structure]
    for first in sorted(set(symmetry.equivalent_atoms.tolist())):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = finder.get_nn_info(structure, first)
        except (ValueError, RuntimeError):  # no neighbor shell: isolated atoms
            continue
        bonds[first] = [(n["site_index"], tuple(int(k) for k in n["image"])) for n in found]
        ends = np.array([points[j] + image for j, image in bonds[first]]).reshape(-1, 3)
        for atom in np.flatnonzero(symmetry.equivalent_atoms == first):
            if atom != first:
                bonds[atom] = _carried(points, matrix, symmetry, first, int(atom), ends)
    return bonds


def _carried(
    points: np.ndarray, matrix: np.ndarray, symmetry: Any, first: int, atom: int, ends: np.ndarray
) -> list[Bond]:
    """The bonds of an atom, mapped by a symmetry operation from the first atom of its orbit."""
    for rotation, translation in zip(symmetry.rotations, symmetry.translations, strict=True):
        shift = points[first] @ rotation.T + translation - points[atom]
        if np.linalg.norm((shift - shift.round()) @ matrix) > 2 * SYMMETRY_TOLERANCE:
            continue
        bonds = []
        for end in ends @ rotation.T + translation - shift.round():
            offset = end - points
            misfit = np.linalg.norm((offset - offset.round()) @ matrix, axis=1)
            other = int(misfit.argmin())
            bonds.append((other, tuple(int(k) for k in offset[other].round())))
        return bonds
    raise ValueError(f"No symmetry operation takes atom {first} to atom {atom} of its orbit.")


def _sites(structure: Structure, symmetry: Any, bonds: list[list[Bond]]) -> tuple[Site, ...]:
    symbols = [site.specie.symbol for site in structure]
    sites = []
    for first, multiplicity in sorted(Counter(symmetry.equivalent_atoms.tolist()).items()):
        origin = structure.frac_coords[first]
        vectors = (
            np.array(
                [(structure.frac_coords[j] + image - origin) for j, image in bonds[first]]
            ).reshape(-1, 3)
            @ structure.lattice.matrix
        )
        lengths: dict[str, list[float]] = defaultdict(list)
        for (j, _), vector in zip(bonds[first], vectors, strict=True):
            lengths[symbols[j]].append(float(np.linalg.norm(vector)))
        same = [k for k, symbol in enumerate(symbols) if symbol == symbols[first]]
        ligands = frozenset(k for k, symbol in enumerate(symbols) if symbol != symbols[first])
        sites.append(
            Site(
                element=symbols[first],
                multiplicity=multiplicity,
                wyckoff=symmetry.wyckoffs[first],
                neighbors={name: len(ds) for name, ds in sorted(lengths.items())},
                lengths={name: (min(ds), max(ds)) for name, ds in sorted(lengths.items())},
                shape=shape(vectors),
                sharing=sharing(same, bonds, ligands),
            )
        )
    return tuple(sites)
