"""Sentences about the coordination of each element."""

from __future__ import annotations

import dataclasses
import math
import random

from pymatgen.core import Element

from tools.materials_project_mini.chemistry import (
    NOBLE_GASES,
    anions,
    is_metal,
    name,
    oxysalts,
)
from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.english import (
    article,
    atoms,
    capital,
    fold,
    join,
    number,
    span,
)
from tools.materials_project_mini.facts import Site

SOLIDS = {
    "tetrahedral": "tetrahedra",
    "octahedral": "octahedra",
    "square planar": "squares",
    "trigonal planar": "triangles",
    "trigonal pyramidal": "trigonal pyramids",
    "trigonal bipyramidal": "trigonal bipyramids",
    "square pyramidal": "square pyramids",
    "trigonal prismatic": "trigonal prisms",
    "pentagonal bipyramidal": "pentagonal bipyramids",
    "cubic": "cubes",
    "square antiprismatic": "square antiprisms",
    "cuboctahedral": "cuboctahedra",
    "icosahedral": "icosahedra",
}
"""Shape -> the polyhedra of that shape."""


def ligand_sites(compound: Compound, element: str) -> list[Site]:
    """The sites of an element, without contacts that are not bonds.

    CrystalNN lets a metal see through its ligands: the hydrogen of a hydroxide and the centers of
    complex anions are left out. The nitrogen of a nitrite does bind to metals.
    """
    facts = compound.facts
    sites = [site for site in facts.of(element) if site.neighbors]
    if not is_metal(element):
        return sites
    behind = {center for center, _ in oxysalts(facts)} - {"N"}
    if "H" not in anions(facts):
        behind.add("H")
    kept = []
    for site in sites:
        neighbors = {e: n for e, n in site.neighbors.items() if e not in behind}
        if neighbors and neighbors != site.neighbors:
            lengths = {e: site.lengths[e] for e in neighbors}
            site = dataclasses.replace(site, neighbors=neighbors, lengths=lengths, shape=None)
        if site.shape == "bent":  # two of the neighbors of a metal, not a bent molecule
            site = dataclasses.replace(site, shape=None)
        if neighbors:
            kept.append(site)
    return kept


class SurroundingsWriter:
    """Writes sentences about coordination; each call draws a random wording.

    Args:
        compound: facts and chemistry.
        rng: source of randomness.
    """

    def __init__(self, compound: Compound, rng: random.Random) -> None:
        self.c = compound
        self.rng = rng

    def sentences(self) -> list[str]:
        """A sentence per element on its bonds, the centers of polyhedra first."""
        sentences = []
        for element in sorted(self.c.elements, key=self._order):
            sites = ligand_sites(self.c, element)
            # A lone contact of an alkali metal or a rare earth is an artifact of the method.
            loose = Element(element).X < 1.4 and not self.c.is_metallic_bonded
            if not sites or (loose and min(site.coordination for site in sites) < 3):
                continue
            kinds = {(tuple(site.neighbors.items()), site.shape) for site in sites}
            partners = {tuple(site.neighbors) for site in sites}
            if len(kinds) == 1:
                sentences.append(self._one_kind(element, sites))
            elif len(partners) == 1 and len(sites[0].neighbors) == 1:
                sentences.append(self._one_partner(element, sites))
            else:
                sentences.append(self._several_kinds(element, sites))
        return [capital(sentence) for sentence in sentences]

    def _order(self, element: str) -> tuple[bool, bool, bool, int]:
        sites = ligand_sites(self.c, element)
        shapeless = any(site.shape is None for site in sites)
        smallest = min((site.coordination for site in sites), default=0)
        return element in anions(self.c.facts), element == "H", shapeless, smallest

    def _one_kind(self, element: str, sites: list[Site]) -> str:
        """All atoms of the element have the same neighbors in the same arrangement."""
        site = sites[0]
        lengths = _range(sites)
        who = self.rng.choice([f"each {name(element)} atom", f"every {name(element)} atom"])
        shape = None if site.shape is None else article(_adjective(site.shape))
        if len(site.neighbors) > 1:
            shaped = "" if shape is None else f" in {shape} arrangement"
            return self.rng.choice([
                f"{who} is surrounded by {_mixed(site)}{shaped}, {lengths} away.",
                f"{who} has {_mixed(site)} as neighbors{shaped}, at {lengths}.",
            ])  # fmt: skip
        ((other, n),) = site.neighbors.items()
        ligand = name(other) if other != element else f"other {name(element)}"
        group = f"{number(n)} {ligand} {atoms(n)}"
        bonds = f"{element}–{other}"
        if n == 1:
            return self.rng.choice([
                f"{who} is bonded to {group} at {lengths}.",
                f"{who} has one {ligand} neighbor at {lengths}.",
                f"{who} binds {group}, with {bonds} bond lengths of {lengths}.",
            ])  # fmt: skip
        if shape is None:
            own = ligand if other != element else "its own kind"
            choices = [
                f"{who} is surrounded by {group}, {lengths} away.",
                f"{name(element)} is {fold(n)} coordinated by {own}, with distances of {lengths}.",
                f"{who} has {number(n)} {ligand} neighbors at {lengths}.",
            ]
            if not self.c.is_metallic_bonded and other not in NOBLE_GASES:
                choices += [
                    f"{who} is bonded to {group} at {lengths}.",
                    f"{who} binds {group}, with {bonds} bond lengths of {lengths}.",
                ]
            return self.rng.choice(choices)
        choices = [
            f"{who} has {shape} environment of {group} at {lengths}.",
            f"{who} is surrounded by {group} in {shape} arrangement, {lengths} away.",
            f"{name(element)} is in {shape} coordination of {group}, with {bonds} distances of "
            f"{lengths}.",
        ]
        solid = _solid(site.shape)
        if solid and other != element:
            choices.append(
                f"{name(element)} atoms center {solid} of {number(n)} {ligand} atoms, {lengths} "
                "away."
            )
        return self.rng.choice(choices)

    def _one_partner(self, element: str, sites: list[Site]) -> str:
        """Sites with different numbers of the same neighbor, such as two to four oxygen atoms."""
        (other,) = sites[0].neighbors
        ligand = name(other) if other != element else f"other {name(element)}"
        counts = sorted({site.coordination for site in sites})
        lengths = _range(sites)
        if len(counts) == 1:
            n = counts[0]
            own = ligand if other != element else "their own kind"
            if n == 1:
                return f"each {name(element)} atom is bonded to one {ligand} atom at {lengths}."
            return self.rng.choice([
                f"{name(element)} atoms on {number(len(sites))} distinct sites each have "
                f"{number(n)} {ligand} neighbors at {lengths}.",
                f"all {name(element)} atoms are {fold(n)} coordinated by {own}, with distances of "
                f"{lengths}.",
            ])  # fmt: skip
        listed = [number(n) for n in counts]
        some = f"{', '.join(listed[:-1])} or {listed[-1]}"
        if len(counts) > 3:
            some = f"{listed[0]} to {listed[-1]}"
        return self.rng.choice([
            f"{name(element)} atoms have {some} {ligand} neighbors, at {lengths}.",
            f"the {name(element)} atoms are surrounded by {some} {ligand} atoms each, {lengths} "
            "away.",
            f"depending on the site, {name(element)} has {some} {ligand} neighbors at {lengths}.",
        ])  # fmt: skip

    def _several_kinds(self, element: str, sites: list[Site]) -> str:
        """Sites with different neighbors; gives the coordination numbers and all neighbors."""
        counts = sorted({site.coordination for site in sites})
        low, high = number(counts[0]), number(counts[-1])
        many = low if len(counts) == 1 else f"{low} to {high}"
        partners = sorted({other for site in sites for other in site.neighbors})
        whom = join([name(other) for other in partners])
        lengths = _range(sites)
        if counts == [1]:
            whom = " or ".join(name(other) for other in partners)
            return f"each {name(element)} atom has a single neighbor, {whom}, at {lengths}."
        return self.rng.choice([
            f"{name(element)} atoms have {many} neighbors among {whom}, at {lengths}.",
            f"on {number(len(sites))} distinct sites, {name(element)} is surrounded by {many} "
            f"atoms of {whom}, {lengths} away.",
            f"the neighbors of {name(element)} are {whom} atoms, {many} around each site, at "
            f"{lengths}.",
        ])  # fmt: skip


def _solid(shape: str) -> str | None:
    """The polyhedra of a shape: "distorted octahedra" for "distorted octahedral"."""
    solid = SOLIDS.get(shape.removeprefix("distorted "))
    return f"distorted {solid}" if solid and shape.startswith("distorted ") else solid


def _adjective(shape: str) -> str:
    if shape.removeprefix("distorted ") == "anticuboctahedral":
        return shape.replace("anticuboctahedral", "hexagonal close-packed")
    return shape


def _range(sites: list[Site]) -> str:
    low = min(low for site in sites for low, _ in site.lengths.values())
    high = max(high for site in sites for _, high in site.lengths.values())
    if math.isclose(low, high, abs_tol=0.015):
        low = high = (low + high) / 2
    return span(low, high)


def _mixed(site: Site) -> str:
    """The neighbors of a site, as in "two lithium and four oxygen atoms"."""
    parts = [f"{number(n)} {name(other)}" for other, n in site.neighbors.items()]
    return f"{join(parts)} {atoms(list(site.neighbors.values())[-1])}"
