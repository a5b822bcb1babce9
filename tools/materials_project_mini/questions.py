"""Multiple-choice statements: the right one first, then three plausible wrong ones."""

from __future__ import annotations

import random
from collections.abc import Sequence

from pymatgen.core import Element

from tools.materials_project_mini.chemistry import compound_class, name
from tools.materials_project_mini.facts import Facts
from tools.materials_project_mini.narrative import join, with_article

NUM_CHOICES = 4


def structure_question(
    facts: Facts, groups: Sequence[tuple[str, int, str]], rng: random.Random
) -> list[str]:
    """Which symmetry: wrong ones come from other crystal systems of the data set.

    Args:
        facts: of the crystal.
        groups: (space group, number, crystal system) of many crystals, to draw wrong ones from.
        rng: draws them.
    """
    right = (facts.space_group, facts.space_group_number, facts.crystal_system)
    chosen = [right]
    while len(chosen) < NUM_CHOICES:
        other = rng.choice(groups)
        if other[2] not in [system for _, _, system in chosen]:
            chosen.append(other)
    return [
        f"The crystal is {system} and its space group is {group} (No. {number})."
        for group, number, system in chosen
    ]


def composition_question(facts: Facts, rng: random.Random) -> list[str]:
    """Which elements in which ratio: wrong ones change one element or one number."""
    right = facts.counts
    chosen = [right]
    while len(chosen) < NUM_CHOICES:
        wrong = _other_ratio(right, rng) if rng.random() < 0.4 else _other_element(right, rng)
        if all(set(wrong.items()) != set(known.items()) for known in chosen):
            chosen.append(wrong)
    return [_composition(counts) for counts in chosen]


def oxide_question(facts: Facts, rng: random.Random) -> list[str]:
    """Whether it is an oxide, and if not, what else."""
    kind = compound_class(facts)
    names_list = [name(symbol) for symbol in facts.counts if symbol != "O"]
    names = join(names_list or ["oxygen"])
    with_oxygen = "O" in facts.counts
    if kind == "element":
        holds = "is pure oxygen" if with_oxygen else f"is elemental {names} and holds no oxygen"
        right = f"The crystal {holds}."
    elif kind == "oxide":
        right = f"The crystal is an oxide of {names}."
    elif with_oxygen:
        what = "a compound" if kind == "oxygen compound" else with_article(kind)
        parts = join([*names_list, "oxygen"])
        right = f"The crystal contains oxygen: it is {what} and consists of {parts}."
    else:
        what = with_article(kind)
        right = f"The crystal contains no oxygen: it is {what} and consists of {names}."
    anions = [
        (symbol, what)
        for symbol, what in (
            ("F", "fluoride"), ("S", "sulfide"), ("N", "nitride"), ("Cl", "chloride"),
            ("Se", "selenide"), ("H", "hydride"), ("Te", "telluride"),
        )
        if symbol not in facts.counts
    ]  # fmt: skip
    metals = [name(s) for s in facts.counts if s not in ("O", "F", "S", "N", "Cl", "Se", "H", "Te")]
    of = f" of {join(metals)}" if metals else ""
    wrong = [f"The crystal is {with_article(what)}{of}, without oxygen." for _, what in anions]
    rng.shuffle(wrong)
    if not with_oxygen:
        wrong = [f"The crystal is an oxide{of}.", *wrong]
    return [right, *wrong[: NUM_CHOICES - 1]]


def _composition(counts: dict[str, int]) -> str:
    names = join([name(symbol) for symbol in counts])
    if len(counts) == 1:
        return f"The crystal consists of {names} alone."
    ratio = ":".join(str(n) for n in counts.values())
    return f"The crystal consists of {names} in the ratio {ratio}."


def _other_element(counts: dict[str, int], rng: random.Random) -> dict[str, int]:
    """One element replaced by a neighbor in its group or period."""
    old = rng.choice(list(counts))
    z = Element(old).Z
    near = [z + step for step in (-32, -18, -8, -2, -1, 1, 2, 8, 18, 32)]
    candidates = [Element.from_Z(n) for n in near if 1 <= n <= 94]
    new = rng.choice(
        [e.symbol for e in candidates if e.symbol not in counts and not e.is_noble_gas]
    )
    return {new if symbol == old else symbol: n for symbol, n in counts.items()}


def _other_ratio(counts: dict[str, int], rng: random.Random) -> dict[str, int]:
    """One number of the reduced ratio changed, so that the ratio is another one."""
    if len(counts) == 1:
        return _other_element(counts, rng)
    changed = rng.choice(list(counts))
    number = counts[changed] + rng.choice((-1, 1, 2))
    wrong = counts | {changed: max(number, 1)}
    same_ratio = (
        len({wrong[s] * counts[changed] == counts[s] * wrong[changed] for s in counts}) == 1
    )
    if same_ratio and wrong[changed] == counts[changed]:
        return _other_element(counts, rng)
    return wrong
