"""Narratives in varied English from computed facts: every sentence can stand alone."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from tools.materials_project_mini.chemistry import compound_class, describe_type, name
from tools.materials_project_mini.facts import Facts, Site

MIN_WORDS, MAX_WORDS = 80, 150
MAX_SITES = 4

_NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve",
)  # fmt: skip


def narrative(
    facts: Facts, properties: Mapping[str, float], rng: random.Random
) -> tuple[list[str], list[str]]:
    """The sentences of the two texts: the structure first, then chemistry and properties.

    Together they have MIN_WORDS to MAX_WORDS words. What matters less is left out where there is
    too much to say, and said in addition where there is too little.
    """
    writer = _Writer(facts, properties, rng)
    structure = [writer.symmetry(), *writer.surroundings()]
    chemistry = [writer.composition(), writer.packing(), *writer.known_properties()]
    spare = [(structure, writer.cell), (structure, writer.lattice)]
    if kind := writer.structure_type():
        structure.append(kind)
    if charges := writer.charges():
        chemistry.append(charges)
    for place, sentence in spare:
        if _words(structure + chemistry) < MAX_WORDS - 45:
            place.append(sentence())
    more = [writer.nearest, writer.volume, writer.orbits, writer.share]
    for place, sentence in zip((structure, chemistry) * 2, more, strict=True):
        if _words(structure + chemistry) < MIN_WORDS + 5:
            place.append(sentence())
    while _words(structure + chemistry) > MAX_WORDS:
        # Surroundings of further atoms go before any property does.
        shortened = structure if len(structure) > 2 else chemistry
        shortened.pop(rng.randrange(2, len(shortened)))
    first, rest = structure[0], structure[1:]
    rng.shuffle(rest)
    rng.shuffle(chemistry)
    return [first, *rest], chemistry


def _words(sentences: list[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


@dataclass
class _Writer:
    """Sentences about one crystal."""

    facts: Facts
    properties: Mapping[str, float]
    rng: random.Random

    def __post_init__(self) -> None:
        self.kind = compound_class(self.facts)
        self.is_element = self.kind == "element"
        if self.is_element:
            self.kind = f"form of elemental {name(next(iter(self.facts.counts)))}"

    def pick(self, *choices: str) -> str:
        """One of the sentences, first letter upper case."""
        text = self.rng.choice(choices)
        return text[0].upper() + text[1:]

    def it(self) -> str:
        """A word for the compound: its formula in some sentences, a description in others."""
        kind = "this phase" if self.is_element else f"this {self.kind}"
        return self.rng.choice(
            [self.facts.formula, "the compound" if not self.is_element else "the solid", kind]
        )

    def symmetry(self) -> str:
        f = self.facts
        group = f"{f.space_group} (No. {f.space_group_number})"
        system = f.crystal_system
        choices = [
            f"{f.formula} crystallizes in the {system} space group {group}.",
            f"{f.formula} is {with_article(system)} {self.kind} with space group {group}.",
            f"{f.formula} forms {with_article(system)} crystal whose space group is {group}.",
        ]
        if not self.is_element:
            choices += [
                f"the {self.kind} {f.formula} is {system}, with space group {group}.",
                f"{with_article(system)} structure is found for {f.formula}, with the symmetry of "
                f"space group {group}.",
            ]
        return self.pick(*choices)

    def structure_type(self) -> str | None:
        kind = describe_type(self.facts)
        if kind is None:
            return None
        return self.pick(
            f"the atoms are arranged as in the {kind} structure.",
            f"{self.it()} has the {kind} structure.",
            f"the structure type of {self.it()} is {kind}.",
        )

    def surroundings(self) -> list[str]:
        """What each kind of atom is bonded to; different surroundings of one element in turn."""
        kinds: dict[tuple, Site] = {}
        for site in self.facts.sites:
            if site.neighbours:
                kinds.setdefault((site.element, tuple(site.neighbours.items())), site)
        sites = sorted(kinds.values(), key=lambda site: -site.multiplicity)[:MAX_SITES]
        total = [site.element for site in kinds.values()]
        sentences = []
        for site in sorted(sites, key=lambda site: site.element):
            several = total.count(site.element) > 1
            sentences.append(self._bonds(site, several))
        return sentences

    def _bonds(self, site: Site, several: bool) -> str:
        element = name(site.element)
        partners = join([f"{_count(n)} {name(other)}" for other, n in site.neighbours.items()])
        # The noun goes with the number before it: "two sodium and one oxygen atom".
        atoms = "atom" if list(site.neighbours.values())[-1] == 1 else "atoms"
        distance = self._distances(site)
        if several:
            who = self.rng.choice([f"one kind of {element} atom", f"some {element} atoms"])
        else:
            who = self.rng.choice([f"each {element} atom", f"every {element} atom"])
        verb = "are" if who.startswith("some") else "is"
        choices = [
            f"{who} {verb} bonded to {partners} {atoms} {distance}.",
            f"{who} {verb} surrounded by {partners} {atoms} {distance}.",
        ]
        if len(site.neighbours) == 1 and site.coordination > 1 and not several:
            (other,) = site.neighbours
            low, high = site.lengths[other]
            span = f"{low:.2f} Å" if high - low < 0.015 else f"{low:.2f} to {high:.2f} Å"
            choices.append(
                f"{element} is {_fold(site.coordination)} coordinated by {name(other)}, and the "
                f"{site.element}–{other} bonds are {span} long."
            )
        return self.pick(*choices)

    def _distances(self, site: Site) -> str:
        low = min(length[0] for length in site.lengths.values())
        high = max(length[1] for length in site.lengths.values())
        if high - low < 0.015:
            return self.rng.choice([f"at {low:.2f} Å", f"at a distance of {low:.2f} Å"])
        return self.rng.choice(
            [f"at {low:.2f} to {high:.2f} Å", f"at distances from {low:.2f} to {high:.2f} Å"]
        )

    def cell(self) -> str:
        n = self.facts.num_sites
        atoms = "a single atom" if n == 1 else f"{_count(n)} atoms"
        return self.pick(
            f"the unit cell used here holds {atoms}.",
            f"there {'is' if n == 1 else 'are'} {atoms} in the unit cell of the calculation.",
        )

    def orbits(self) -> str:
        n = len(self.facts.sites)
        if n == 1:
            return self.pick("all atoms are equivalent by symmetry.")
        return self.pick(f"symmetry leaves {_count(n)} inequivalent atomic sites.")

    def lattice(self) -> str:
        a, b, c, *_ = self.facts.lattice
        if self.facts.crystal_system == "cubic":
            return self.pick(
                f"the conventional cubic cell has an edge of {a:.2f} Å.",
                f"the cubic lattice parameter is {a:.2f} Å.",
            )
        if self.facts.crystal_system in ("tetragonal", "trigonal", "hexagonal"):
            return self.pick(
                f"the lattice parameters of the conventional cell are a = {a:.2f} Å and "
                f"c = {c:.2f} Å."
            )
        return self.pick(f"the conventional cell has edges of {a:.2f}, {b:.2f} and {c:.2f} Å.")

    def nearest(self) -> str:
        d = self.facts.shortest_distance
        return self.pick(
            f"the closest contact between two atoms is {d:.2f} Å.",
            f"no two atoms come closer to each other than {d:.2f} Å.",
        )

    def volume(self) -> str:
        v = self.facts.volume_per_atom
        return self.pick(
            f"each atom takes up {v:.1f} Å3 on average.",
            f"the average volume per atom in {self.it()} is {v:.1f} Å3.",
        )

    def share(self) -> str:
        counts = self.facts.counts
        total = sum(counts.values())
        most = max(counts, key=lambda symbol: counts[symbol])
        if self.is_element:
            return f"The solid consists of {name(most)} alone, without any other element."
        percent = 100 * counts[most] / total
        return f"Of all atoms in the compound, {percent:.0f} percent are {name(most)} atoms."

    def packing(self) -> str:
        d = self.facts.density
        return self.pick(
            f"the computed density of {self.it()} is {d:.2f} g/cm3.",
            f"{self.it()} has a calculated density of {d:.2f} g/cm3.",
            f"from the cell volume follows a density of {d:.2f} g/cm3.",
        )

    def composition(self) -> str:
        counts = self.facts.counts
        names = [name(symbol) for symbol in counts]
        if self.is_element:
            return self.pick(
                f"the crystal is made of {names[0]} only.",
                f"{self.facts.formula} is a pure element, {names[0]}.",
            )
        ratio = ":".join(str(n) for n in counts.values())
        what = with_article(self.kind)
        return self.pick(
            f"chemically, {self.facts.formula} is {what} that combines {join(names)} in the ratio "
            f"{ratio}.",
            f"{join(names)} make up {self.it()} in the atomic ratio {ratio}.",
            f"the compound consists of {join(names)}, with an atomic ratio of {ratio}."
            if self.kind in ("compound", "intermetallic compound")
            else f"as {what}, {self.facts.formula} contains {join(names)} in the ratio {ratio}.",
        )

    def charges(self) -> str | None:
        states = self.facts.oxidation_states
        if states is None:
            return None
        ions = [f"{symbol}{_charge(state)}" for symbol, state in states.items()]
        return self.pick(
            f"charge balance is met by {join(ions)}.",
            f"in terms of ions, the compound can be written with {join(ions)}.",
        )

    def known_properties(self) -> list[str]:
        """One sentence for each property that is known, some pairs in one."""
        p = self.properties
        sentences = []
        if "band gap" in p:
            sentences.append(self._gap(p["band gap"]))
        if "formation energy per atom" in p:
            e = p["formation energy per atom"]
            sentences.append(
                self.pick(
                    f"the formation energy of {self.it()} is {_signed(e)} eV/atom.",
                    f"DFT gives a formation energy of {_signed(e)} eV/atom.",
                    f"{self.it()} has a computed formation energy of {_signed(e)} eV/atom.",
                )
            )
        if "energy above hull" in p:
            sentences.append(self._hull(max(p["energy above hull"], 0.0)))
        bulk, shear = p.get("bulk modulus"), p.get("shear modulus")
        if bulk is not None and shear is not None:
            sentences.append(
                self.pick(
                    f"the bulk modulus is {bulk:.0f} GPa and the shear modulus {shear:.0f} GPa.",
                    f"elastically, {self.it()} has a bulk modulus of {bulk:.0f} GPa and a shear "
                    f"modulus of {shear:.0f} GPa.",
                )
            )
        elif bulk is not None:
            sentences.append(f"The bulk modulus is {bulk:.0f} GPa.")
        poisson, anisotropy = p.get("poisson ratio"), p.get("elastic anisotropy")
        if poisson is not None and anisotropy is not None:
            sentences.append(
                f"The Poisson ratio is {poisson:.2f} and the elastic anisotropy {anisotropy:.2f}."
            )
        index, dielectric = p.get("refractive index"), p.get("dielectric constant")
        electronic = p.get("electronic dielectric constant")
        if index is not None:
            sentences.append(
                self.pick(
                    f"the refractive index is about {index:.2f}.",
                    f"light in {self.it()} sees a refractive index of about {index:.2f}.",
                )
            )
        if dielectric is not None:
            part = "" if electronic is None else f", of which {electronic:.2f} is electronic"
            sentences.append(f"The static dielectric constant is {dielectric:.2f}{part}.")
        elif electronic is not None:
            sentences.append(f"The electronic dielectric constant is {electronic:.2f}.")
        if "piezoelectric modulus" in p:
            sentences.append(
                f"The largest piezoelectric modulus is {p['piezoelectric modulus']:.2f} C/m2."
            )
        return sentences

    def _gap(self, gap: float) -> str:
        if gap < 0.01:
            return self.pick(
                f"DFT with the PBE functional finds no band gap, so {self.it()} is computed to be "
                "metallic.",
                "according to PBE calculations there is no band gap, as in a metal.",
                f"{self.it()} is metallic in PBE calculations, without a band gap.",
            )
        if gap < 0.1:
            return f"DFT with the PBE functional gives a very small band gap of {gap:.2f} eV."
        kind = "semiconductor" if gap < 3.0 else "wide-gap insulator"
        return self.pick(
            f"the PBE band gap of {self.it()} is {gap:.2f} eV, that of a {kind}.",
            f"with a band gap of {gap:.2f} eV (DFT, PBE), {self.it()} is computed to be a {kind}.",
            f"DFT with the PBE functional gives a band gap of {gap:.2f} eV.",
        )

    def _hull(self, energy: float) -> str:
        if energy < 0.0005:
            return self.pick(
                "it is stable against decomposition, lying on the convex hull of phases.".replace(
                    "it", self.it(), 1
                ),
                "the phase lies on the convex hull and is thermodynamically stable.",
            )
        return self.pick(
            f"the energy above the convex hull is {energy:.3f} eV/atom.",
            f"{self.it()} lies {energy:.3f} eV/atom above the convex hull of stable phases.",
        )


def with_article(noun: str) -> str:
    """The noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _count(number: int) -> str:
    return _NUMBERS[number] if number < len(_NUMBERS) else str(number)


def _fold(number: int) -> str:
    return f"{_count(number)}fold" if number < len(_NUMBERS) else f"{number}-fold"


def join(parts: list[str]) -> str:
    """A list in English: "a, b and c"."""
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _signed(value: float) -> str:
    text = f"{value:.2f}"
    return "0.00" if text == "-0.00" else text


def _charge(state: int) -> str:
    size = "" if abs(state) == 1 else str(abs(state))
    return f"{size}{'+' if state > 0 else '-'}"
