"""Sentences about the structure and composition of a crystal."""

from __future__ import annotations

import random

from pymatgen.core import Element

from tools.materials_project_mini.chemistry import (
    CHALCOGENS,
    HALOGENS,
    NOBLE_GASES,
    anions,
    is_metal,
    name,
)
from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.english import article, capital, join, number
from tools.materials_project_mini.surroundings import SOLIDS


class StructureWriter:
    """Writes sentences about one crystal; each call draws a random wording.

    Args:
        compound: facts and chemistry.
        rng: source of randomness.
    """

    def __init__(self, compound: Compound, rng: random.Random) -> None:
        self.c = compound
        self.f = compound.facts
        self.rng = rng

    def _pick(self, *choices: str) -> str:
        return capital(self.rng.choice(choices))

    def _thing(self) -> str:
        """A word for the compound that does not say "crystal" already."""
        it = self.c.it(self.rng)
        return it if it != "the crystal" else "this phase"

    def opening(self) -> str:
        """The elements of the crystal; always contains the formula."""
        f, c = self.f, self.c
        if c.is_element:
            element = name(c.elements[0])
            if c.kind == "elemental metal":
                return self._pick(
                    f"the metal {element} ({f.formula}) is {f.crystal_system} in this form.",
                    f"the metal {element}, symbol {f.formula}, appears here as a pure element.",
                    f"pure {element} ({f.formula}) is an elemental metal.",
                )
            return self._pick(
                f"{f.formula} is a solid form of the element {element}.",
                f"elemental {element}, written {f.formula}, forms this crystal.",
                f"this crystal of {f.formula} contains {element} only.",
            )
        names = [name(symbol) for symbol in c.elements]
        shuffled = self.rng.sample(names, len(names))
        return self._pick(
            f"{f.formula} is {article(c.kind)} made of {join(names)}.",
            f"{f.formula} is {article(c.kind)} composed of {join(shuffled)}.",
            f"the {c.kind} {f.formula} contains {join(shuffled)}.",
            f"{join(names)} form {f.formula}, {article(c.kind)}.",
            f"{f.formula}, {article(f.crystal_system + ' ' + c.kind)}, consists of {join(names)}.",
            f"{join(names)} are combined in {f.formula}, {article(c.kind)}.",
        )

    def symmetry(self) -> str:
        """Crystal system and space group."""
        system = self.f.crystal_system
        group = f"{self.f.space_group} (No. {self.f.space_group_number})"
        it = self.c.it(self.rng)
        return self._pick(
            f"{self._thing()} crystallizes in the {system} space group {group}.",
            f"the structure is {system} with space group {group}.",
            f"the crystal system is {system} and the space group is {group}.",
            f"the atoms of {it} follow the {system} symmetry of space group {group}.",
            f"{it} has {article(system)} structure with space group {group}.",
            f"the {system} structure of {it} is described by space group {group}.",
        )

    def structure_type(self) -> str | None:
        """The structure prototype, if certain."""
        kind = self.c.structure_type
        if kind is None:
            return None
        it = self.c.it(self.rng)
        if self.f.formula in kind:
            return self._pick(f"{it} gives its name to a structure type.")
        return self._pick(
            f"{it} adopts the {kind} structure.",
            f"the arrangement of atoms is that of the {kind} structure type.",
            f"{it} belongs to the {kind} structure type.",
            f"structurally, {it} is of the {kind} type.",
        )

    def cell(self) -> str:
        """The number of sites."""
        n = self.f.num_sites
        it = self.c.it(self.rng)
        if n == 1:
            return self._pick(
                f"the primitive cell of {it} holds a single atom.",
                "there is only one atom in the primitive cell.",
            )
        kinds = len(self.f.sites)
        choices = [
            f"the unit cell of {it} holds {number(n)} atoms.",
            f"in the unit cell of {it} there are {number(n)} sites.",
            f"the cell contains {number(n)} atomic sites.",
        ]
        if 1 < kinds < n:
            choices.append(
                f"the cell has {number(n)} sites, {number(kinds)} of them symmetrically distinct."
            )
        return self._pick(*choices)

    def polyhedra(self) -> str | None:
        """The connections of the polyhedra around one cation."""
        named = anions(self.f)
        choices = []
        for element in self.c.elements:
            sites = self.f.of(element)
            shapes = {(site.shape or "").removeprefix("distorted ") for site in sites}
            ligands = {other for site in sites for other in site.neighbors}
            if element in named or len(shapes) != 1 or not ligands <= set(named) or not ligands:
                continue
            solid = SOLIDS.get(shapes.pop())
            if solid is None or len(ligands) > 2:
                continue
            kinds = [k for k in ("corner", "edge", "face") if any(k in s.sharing for s in sites)]
            who = f"the {name(element)}-centered {solid}"
            parts = join([f"{kind}s" for kind in kinds] or [""])
            if kinds:
                choices += [f"{who} share {parts}.", f"{who} are linked by shared {parts}."]
            elif len(ligands) == 1:
                (ligand,) = ligands
                atom = article(f"{name(ligand)} atom")
                choices.append(f"{who} are isolated: no two of them share {atom}.")
            else:
                choices.append(f"{who} are isolated from one another.")
            if kinds == ["corner"]:
                choices.append(f"{who} share corners only.")
        return self._pick(*choices) if choices else None

    def dimensions(self) -> str | None:
        """Layers, chains and molecules; None for a framework."""
        f = self.f
        if self.c.is_metallic_bonded or set(f.counts) & NOBLE_GASES:
            return None
        if any(not site.neighbors for site in f.sites):
            return None
        hard = HALOGENS | CHALCOGENS | {"O", "N"}
        if any(map(is_metal, f.counts)) and not set(anions(f)) & hard:
            return None  # bonds between metal atoms, missed by CrystalNN, connect the pieces
        pieces = set(f.pieces)
        it = self.c.it(self.rng)
        if pieces == {2}:
            return self._pick(
                f"{it} is layered, with bonded sheets stacked on each other.",
                "bonds run within two-dimensional layers, and the layers are held together weakly.",
                f"the structure of {it} is built from two-dimensional sheets.",
            )
        if pieces == {1}:
            return self._pick(
                f"{it} consists of one-dimensional chains.",
                "the bonded units are infinite chains that run along one direction.",
            )
        if pieces == {0}:
            if any(map(is_metal, f.counts)):
                return self._pick(
                    "the bonded units are discrete clusters that are not linked to each other.",
                    f"{it} is zero-dimensional, built from isolated clusters.",
                )
            return self._pick(
                f"{self._thing()} is a molecular crystal of discrete units.",
                "the bonded units are discrete molecules held together by weak forces.",
            )
        return None

    def density(self) -> str:
        """Mass density."""
        it, value = self.c.it(self.rng), f"{self.f.density:.2f} g/cm^3"
        return self._pick(
            f"the density of {it} is {value}.",
            f"{it} has a density of {value}.",
            f"its cell gives {it} a calculated density of {value}.",
            f"a density of {value} follows from the cell.",
        )

    def oxidation(self) -> str | None:
        """Oxidation states, if certain."""
        states = self.c.states
        if states is None:
            return None
        signed = [(name(e), f"{states[e]:+d}") for e in self.c.elements]
        return self._pick(
            f"the formal oxidation states are {join([f'{n} {q}' for n, q in signed])}.",
            f"charge balance gives {join([f'{n} {q}' for n, q in signed])} as oxidation states.",
            f"formally, {join([f'{n} is {q}' for n, q in signed])}.",
        )

    def ratio(self) -> str | None:
        """The atomic ratio."""
        if self.c.is_element:
            return None
        elements = self.rng.sample(self.c.elements, len(self.c.elements))
        names = join([name(e) for e in elements])
        numbers = ":".join(str(self.f.counts[e]) for e in elements)
        it = self.c.it(self.rng)
        return self._pick(
            f"the atomic ratio of {names} is {numbers}.",
            f"{it} contains {names} in the ratio {numbers}.",
        )

    def lattice(self) -> str:
        """Edges (and the monoclinic angle) of the conventional cell."""
        a, b, c, _, beta, _ = self.f.lattice
        system = self.f.crystal_system
        if system == "cubic":
            return self._pick(
                f"the edge of the conventional cubic cell is {a:.2f} Å.",
                f"the cubic lattice parameter is {a:.2f} Å.",
            )
        if system in ("tetragonal", "hexagonal", "trigonal"):
            return self._pick(
                f"the lattice parameters are a = {a:.2f} Å and c = {c:.2f} Å.",
                f"the conventional cell measures {a:.2f} Å in the plane and {c:.2f} Å along the c "
                "axis.",
            )
        edges = f"{a:.2f}, {b:.2f} and {c:.2f} Å"
        tail = f", with a monoclinic angle of {beta:.1f} degrees" if system == "monoclinic" else ""
        return self._pick(
            f"the edges of the conventional cell are {edges}{tail}.",
            f"the conventional cell measures {edges}{tail}.",
        )

    def inversion(self) -> str:
        """Inversion symmetry and polarity."""
        it = self.c.it(self.rng)
        if self.f.centric:
            return self._pick(
                f"{it} is centrosymmetric.",
                "the structure has an inversion center, so it cannot be piezoelectric.",
                f"{it} has inversion symmetry.",
            )
        if self.f.polar:
            return self._pick(
                f"{it} is polar and lacks an inversion center.",
                "the structure is polar, without an inversion center.",
            )
        return self._pick(
            f"{it} lacks an inversion center but is not polar.",
            "the structure is non-centrosymmetric and nonpolar.",
        )

    def mass_share(self) -> str | None:
        """The element that makes up most of the mass."""
        if self.c.is_element:
            return None
        masses = {e: n * float(Element(e).atomic_mass) for e, n in self.f.counts.items()}
        heavy = max(masses, key=lambda e: masses[e])
        share = 100 * masses[heavy] / sum(masses.values())
        it = self.c.it(self.rng)
        return self._pick(
            f"in {it}, {name(heavy)} accounts for {share:.0f}% of the mass.",
            f"by mass, {it} is {share:.0f}% {name(heavy)}.",
        )

    def volume(self) -> str:
        """Volume per atom."""
        it = self.c.it(self.rng)
        value = f"{self.f.volume_per_atom:.1f} cubic angstrom"
        return self._pick(
            f"each atom of {it} takes up {value} on average.",
            f"the volume per atom of {it} is {value}.",
        )

    def shortest(self) -> str | None:
        """The shortest interatomic distance."""
        if not self.f.contacts:
            return None
        first, second = min(self.f.contacts, key=lambda pair: self.f.contacts[pair])
        value = f"{self.f.contacts[first, second]:.2f} Å"
        if first == second:
            return self._pick(
                f"the closest pair of {name(first)} atoms is {value} apart.",
                f"no two atoms come closer than {value}, the shortest distance between "
                f"{name(first)} atoms.",
            )
        return self._pick(
            f"the shortest distance in the structure, {value}, is between {name(first)} and "
            f"{name(second)}.",
            f"{name(first)} and {name(second)} come as close as {value}.",
        )

    def family(self) -> str | None:
        """The positions of the elements in the periodic table."""
        element = Element(self.c.elements[0])
        return self._pick(
            f"{name(element.symbol)} has atomic number {element.Z} and stands in period "
            f"{element.row} of the periodic table.",
            f"in the periodic table, {name(element.symbol)} is element {element.Z}, in period "
            f"{element.row}.",
        )
