"""Multiple choice: four statements about a crystal, of which only the first is true."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from pymatgen.core import Element

from tools.materials_project_mini.chemistry import (
    NOBLE_GASES,
    STATES,
    is_metal,
    name,
)
from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.english import article, capital, join, number
from tools.materials_project_mini.facts import Facts
from tools.materials_project_mini.surroundings import ligand_sites

CHOICES = 4
# Class -> elements that a compound of it must have. A compound that lacks one is not of the class.
_NEEDS = {
    "oxide": ("O",), "hydroxide": ("O", "H"), "peroxide": ("O",), "carbonate": ("C", "O"),
    "nitrate": ("N", "O"), "phosphate": ("P", "O"), "sulfate": ("S", "O"), "silicate": ("Si", "O"),
    "borate": ("B", "O"), "arsenate": ("As", "O"), "oxyfluoride": ("O", "F"),
    "oxychloride": ("O", "Cl"), "oxynitride": ("O", "N"), "oxysulfide": ("O", "S"),
    "fluoride": ("F",), "chloride": ("Cl",), "bromide": ("Br",), "iodide": ("I",),
    "sulfide": ("S",), "selenide": ("Se",), "telluride": ("Te",), "nitride": ("N",),
    "phosphide": ("P",), "carbide": ("C",), "hydride": ("H",), "silicide": ("Si",),
    "boride": ("B",),
}  # fmt: skip


def structure_question(
    compound: Compound,
    groups: Sequence[tuple[str, int, str]],
    types: Sequence[str],
    rng: random.Random,
) -> list[str]:
    """On the symmetry, the coordination of an element or the structure type.

    Args:
        compound: what is asked about.
        groups: (symbol, number, crystal system) of all crystals, the pool of wrong symmetries.
        types: structure types of all crystals that have one, the pool of wrong types.
        rng: makes all choices.
    """  # fmt: skip
    makers = [lambda: _symmetry(compound.facts, groups, rng)] * 2
    if _coordinated(compound):
        makers.append(lambda: _coordination(compound, rng))
    if compound.structure_type:
        makers.append(lambda: _type(compound, types, rng))
    return _checked(compound, rng.choice(makers)())


def _symmetry(
    facts: Facts, groups: Sequence[tuple[str, int, str]], rng: random.Random
) -> list[str]:
    """All four crystal systems differ, so that a wrong choice is wrong at any tolerance."""
    picked = [(facts.space_group, facts.space_group_number, facts.crystal_system)]
    while len(picked) < CHOICES:
        group = rng.choice(groups)
        if group[2] not in {system for _, _, system in picked}:
            picked.append(group)
    form = rng.choice([
        "The crystal is {system} with space group {group} (No. {number}).",
        "The structure belongs to the {system} space group {group} (No. {number}).",
    ])  # fmt: skip
    return [form.format(system=s, group=g, number=n) for g, n, s in picked]


def _coordinated(compound: Compound) -> list[tuple[str, str, int]]:
    """(element, neighbor, number) where all atoms of an element are surrounded alike."""
    found = []
    for element in compound.elements:
        around = {tuple(site.neighbors.items()) for site in ligand_sites(compound, element)}
        if len(around) == 1 and len(next(iter(around))) == 1:
            ((other, n),) = next(iter(around))
            if n >= 3:
                found.append((element, other, n))
    return found


def _coordination(compound: Compound, rng: random.Random) -> list[str]:
    element, other, right = rng.choice(_coordinated(compound))
    # One more or less is a matter of taste around a large atom.
    far = [n for n in (2, 3, 4, 5, 6, 8, 9, 10, 12) if abs(n - right) >= (1 if right <= 4 else 2)]
    ligand = name(other) if other != element else f"other {name(element)}"
    return [
        f"Each {name(element)} atom is surrounded by {number(n)} {ligand} atoms."
        for n in [right, *rng.sample(far, CHOICES - 1)]
    ]


def _type(compound: Compound, types: Sequence[str], rng: random.Random) -> list[str]:
    picked = [str(compound.structure_type)]
    while len(picked) < CHOICES:
        kind = rng.choice(types)
        if kind not in picked:
            picked.append(kind)
    return [f"The crystal has the {kind} structure." for kind in picked]


def composition_question(compound: Compound, rng: random.Random) -> list[str]:
    """On the elements, or on their ratio."""
    elements = compound.elements
    if len(elements) > 1 and rng.random() < 0.4:
        return _checked(compound, _ratios(compound, rng))
    sets = [tuple(elements)]
    while len(sets) < CHOICES:
        swapped = list(elements)
        for place in rng.sample(range(len(elements)), min(len(elements), rng.choice([1, 1, 2]))):
            swapped[place] = rng.choice(_similar(elements[place], [*elements, *swapped]))
        if {*swapped} not in [{*known} for known in sets]:
            sets.append(tuple(swapped))
    verb = rng.choice(["contains", "is made of", "consists of"])
    return _checked(
        compound, [f"The crystal {verb} {join([name(e) for e in chosen])}." for chosen in sets]
    )


def _ratios(compound: Compound, rng: random.Random) -> list[str]:
    right = tuple(compound.facts.counts[e] for e in compound.elements)
    ratios = [right]
    while len(ratios) < CHOICES:
        wrong = list(right)
        if rng.random() < 0.5:
            rng.shuffle(wrong)
        else:
            place = rng.randrange(len(wrong))
            wrong[place] = max(1, wrong[place] + rng.choice([-2, -1, 1, 2, 3]))
        if math.gcd(*wrong) == 1 and tuple(wrong) not in ratios:
            ratios.append(tuple(wrong))
    names = join([name(e) for e in compound.elements])
    return [f"The atomic ratio of {names} is {':'.join(map(str, r))}." for r in ratios]


def _similar(symbol: str, taken: Sequence[str]) -> list[str]:
    """Elements of the same group or beside it in the periodic table."""
    element = Element(symbol)
    stable = [Element.from_Z(z) for z in range(1, 93) if z not in (43, 61, *range(84, 90), 91)]
    near = [
        other.symbol
        for other in stable
        if other.symbol not in taken
        and (other.group == element.group or abs(other.Z - element.Z) <= 1)
        and is_metal(other.symbol) == is_metal(symbol)
        and (other.symbol in NOBLE_GASES) == (symbol in NOBLE_GASES)
    ]
    if len(near) >= CHOICES - 1:
        return near
    return [other.symbol for other in stable if other.symbol not in taken]


def oxide_question(compound: Compound, rng: random.Random) -> list[str]:
    """On whether the compound is an oxide, which class it is of, or an oxidation state in it."""
    present = set(compound.facts.counts)
    cations = [
        e for e, q in (compound.states or {}).items() if q > 0 and len(STATES.get(e, ())) > 1
    ]
    if "O" in present and cations and rng.random() < 0.4:
        return _checked(compound, _state(compound, rng.choice(cations), rng))
    kind = compound.kind
    if compound.is_element:
        kind = f"form of elemental {name(compound.elements[0])}"
    wrong = rng.sample(sorted(c for c, needs in _NEEDS.items() if not set(needs) <= present), 3)
    if "O" in present:
        statements = [f"The compound is {article(choice)}." for choice in (kind, *wrong)]
    else:
        if "oxide" not in wrong:
            wrong[rng.randrange(3)] = "oxide"
        statements = [
            f"The compound is {article(choice)}."
            if "O" in _NEEDS.get(choice, ())
            else f"The compound is not an oxide but {article(choice)}."
            for choice in (kind, *wrong)
        ]
    return _checked(compound, statements)


def _state(compound: Compound, cation: str, rng: random.Random) -> list[str]:
    assert compound.states is not None
    right = compound.states[cation]
    others = sorted((q for q in range(1, 8) if q != right), key=lambda q: abs(q - right))[:4]
    return [
        f"In the compound, {name(cation)} has the formal oxidation state +{q}."
        for q in [right, *rng.sample(others, CHOICES - 1)]
    ]


def _checked(compound: Compound, statements: list[str]) -> list[str]:
    if len(set(statements)) != CHOICES:
        raise ValueError(
            f"{compound.facts.material_id} ({compound.facts.formula}) has equal choices: "
            f"{statements}."
        )
    return [capital(statement) for statement in statements]
