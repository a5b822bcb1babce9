"""What can be computed about a crystal: symmetry, coordination, bond lengths, chemistry."""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import spglib
from pymatgen.analysis.local_env import CrystalNN
from pymatgen.core import Composition, Element, Lattice, Structure

from tools.materials_project_mini.prototypes import prototype

SYMMETRY_TOLERANCE = 0.05  # angstrom; the crystals are relaxed by DFT

CRYSTAL_SYSTEMS = (
    (2, "triclinic"),
    (15, "monoclinic"),
    (74, "orthorhombic"),
    (142, "tetragonal"),
    (167, "trigonal"),
    (194, "hexagonal"),
    (230, "cubic"),
)


@dataclass(frozen=True)
class Site:
    """One kind of atom (a symmetry orbit) and its surroundings.

    Attributes:
        element: symbol.
        neighbours: symbol -> number of bonded atoms (CrystalNN).
        lengths: symbol -> (shortest, longest) bond, angstrom.
        multiplicity: atoms of the orbit in the cell.
    """

    element: str
    neighbours: dict[str, int]
    lengths: dict[str, tuple[float, float]]
    multiplicity: int

    @property
    def coordination(self) -> int:
        """Number of bonded atoms."""
        return sum(self.neighbours.values())


@dataclass(frozen=True)
class Facts:
    """All that a narrative may say of a crystal, beside its known properties.

    Lengths in angstrom, volume per atom in cubic angstrom, density in g/cm^3.
    """

    formula: str
    counts: dict[str, int]
    num_sites: int
    space_group: str
    space_group_number: int
    crystal_system: str
    density: float
    volume_per_atom: float
    shortest_distance: float
    lattice: tuple[float, float, float, float, float, float]
    sites: tuple[Site, ...]
    oxidation_states: dict[str, int] | None
    prototype: str | None


def crystal_system(number: int) -> str:
    """The crystal system of a space group number."""
    return next(name for last, name in CRYSTAL_SYSTEMS if number <= last)


def compute_facts(row: dict[str, Any]) -> Facts:
    """The facts of one row (lattice, atomic_numbers, frac_coords, formula)."""
    structure = Structure(
        Lattice(np.reshape(row["lattice"], (3, 3))),
        [Element.from_Z(z) for z in row["atomic_numbers"]],
        np.reshape(row["frac_coords"], (-1, 3)),
    )
    cell = (structure.lattice.matrix, structure.frac_coords, row["atomic_numbers"])
    symmetry = spglib.get_symmetry_dataset(cell, symprec=SYMMETRY_TOLERANCE)
    composition = structure.composition.reduced_composition
    counts = {str(element): int(n) for element, n in composition.items()}
    distances = structure.distance_matrix + 1e9 * np.eye(len(structure))
    shortest = min(distances.min(), *_image_lengths(structure))
    lengths = np.linalg.norm(symmetry.std_lattice, axis=1)
    return Facts(
        formula=row["formula"],
        counts=counts,
        num_sites=len(structure),
        space_group=symmetry.international,
        space_group_number=symmetry.number,
        crystal_system=crystal_system(symmetry.number),
        density=float(structure.density),
        volume_per_atom=structure.volume / len(structure),
        shortest_distance=float(shortest),
        lattice=(*map(float, lengths), *map(float, Lattice(symmetry.std_lattice).angles)),
        sites=tuple(_sites(structure, symmetry)),
        oxidation_states=_oxidation_states(composition),
        prototype=prototype(counts, symmetry),
    )


def _image_lengths(structure: Structure) -> tuple[float, ...]:
    shifts = np.stack(np.meshgrid(*[range(-2, 3)] * 3), axis=-1).reshape(-1, 3)
    lengths = np.linalg.norm(shifts[np.any(shifts != 0, axis=1)] @ structure.lattice.matrix, axis=1)
    return (float(lengths.min()),)


def _sites(structure: Structure, symmetry: Any) -> list[Site]:
    """One Site per symmetry orbit, by CrystalNN (Pan et al., Inorg. Chem. 60, 1590 (2021))."""
    finder = CrystalNN(distance_cutoffs=(0.5, 1), x_diff_weight=3.0)
    sites = []
    for first, multiplicity in sorted(Counter(symmetry.equivalent_atoms.tolist()).items()):
        counts: Counter[str] = Counter()
        lengths: dict[str, list[float]] = defaultdict(list)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = finder.get_nn_info(structure, first)
        except (ValueError, RuntimeError):  # no neighbour shell (isolated atoms)
            found = []
        for neighbour in found:
            symbol = neighbour["site"].specie.symbol
            counts[symbol] += 1
            lengths[symbol].append(neighbour["site"].distance_from_point(structure[first].coords))
        sites.append(
            Site(
                element=structure[first].specie.symbol,
                neighbours=dict(sorted(counts.items())),
                lengths={name: (min(ds), max(ds)) for name, ds in sorted(lengths.items())},
                multiplicity=multiplicity,
            )
        )
    return sites


# Elements that are anions toward everything less electronegative here.
ANIONS = ("F", "O", "Cl", "Br", "I", "S", "Se", "N")
# Elements whose usual oxidation state is one and the same.
FIXED = (
    {name: 1 for name in ("Li", "Na", "K", "Rb", "Cs", "Ag")}
    | {name: 2 for name in ("Be", "Mg", "Ca", "Sr", "Ba", "Zn", "Cd")}
    | {name: 3 for name in ("Al", "Sc", "Y", "La", "Gd", "Lu", "Ga", "B")}
    | {name: 4 for name in ("Zr", "Hf", "Si", "Th")}
    | {"Ta": 5, "F": -1}
)


def _oxidation_states(composition: Composition) -> dict[str, int] | None:
    """Integer states where they follow from charge balance alone, else None.

    Exactly one element is an anion in its usual state, all others but at most one have one usual
    state, and the last one's state then follows and is one it is known to take.
    """
    names = [str(element) for element in composition]
    anions = [name for name in names if name in ANIONS]
    if len(anions) != 1 or len(names) < 2:
        return None
    anion = anions[0]
    usual = {"F": -1, "Cl": -1, "Br": -1, "I": -1, "O": -2, "S": -2, "Se": -2, "N": -3}
    if any(Element(name).X >= Element(anion).X for name in names if name != anion):
        return None
    states = {anion: usual[anion]}
    open_names = [name for name in names if name != anion and name not in FIXED]
    states |= {name: FIXED[name] for name in names if name != anion and name in FIXED}
    if len(open_names) > 1:
        return None
    charge = sum(states[name] * composition[name] for name in states)
    if not open_names:
        return {name: int(states[name]) for name in names} if charge == 0 else None
    state = -charge / composition[open_names[0]]
    if state != int(state) or int(state) not in Element(open_names[0]).common_oxidation_states:
        return None
    states[open_names[0]] = int(state)
    return {name: int(states[name]) for name in names}
