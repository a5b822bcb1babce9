"""Narratives in varied English from computed facts; every sentence is self-contained."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.properties import property_sentences
from tools.materials_project_mini.structure import StructureWriter
from tools.materials_project_mini.surroundings import SurroundingsWriter

MIN_WORDS, MAX_WORDS = 80, 150
_TARGET = (92, 118)  # words; sentences are added up to a length drawn from this range


def words(sentences: list[str]) -> int:
    """Number of words separated by whitespace."""
    return sum(len(sentence.split()) for sentence in sentences)


def narrative(
    compound: Compound, properties: Mapping[str, float], rng: random.Random
) -> tuple[list[str], list[str]]:
    """The sentences of the two texts: structure first, then chemistry and known properties.

    Together they have MIN_WORDS to MAX_WORDS words. All known properties, the symmetry, the number
    of sites, the density and the coordination of one element are always included; the structure
    type, layers or molecules and a second element if space permits; other facts in random order up
    to a random length.

    Args:
        compound: facts and chemistry.
        properties: name -> value of the known properties.
        rng: source of randomness.

    Raises:
        ValueError: the facts are too few or too many for the word limits.
    """
    writer = StructureWriter(compound, rng)
    opening = writer.opening()
    structure = [writer.symmetry(), writer.cell()]
    chemistry = [writer.density(), *property_sentences(compound, properties, rng)]
    surroundings = SurroundingsWriter(compound, rng).sentences()
    target = rng.uniform(*_TARGET)

    def add(place: list[str], sentence: str | None, limit: float) -> None:
        total = words([opening, *structure, *chemistry])
        if sentence is not None and total + words([sentence]) <= limit:
            place.append(sentence)

    for sentence in surroundings[:1]:
        add(structure, sentence, MAX_WORDS)
    add(structure, writer.structure_type(), MAX_WORDS)
    add(structure, writer.dimensions(), MAX_WORDS - 10)
    for sentence in surroundings[1:2]:
        add(structure, sentence, MAX_WORDS - 20)
    more = [
        (structure, writer.polyhedra()),
        (chemistry, writer.oxidation()),
        *((structure, sentence) for sentence in surroundings[2:4]),
    ]
    rng.shuffle(more)
    for place, sentence in more:
        add(place, sentence, target + 18)
    fillers = [
        (chemistry, writer.ratio),
        (structure, writer.lattice),
        (structure, writer.inversion),
        (chemistry, writer.mass_share),
    ]
    rng.shuffle(fillers)
    last = [(chemistry, writer.volume), (structure, writer.shortest), (chemistry, writer.family)]
    for place, make in fillers + last:
        if words([opening, *structure, *chemistry]) < target - 6:
            add(place, make(), MAX_WORDS)
    rng.shuffle(structure)
    rng.shuffle(chemistry)
    total = words([opening, *structure, *chemistry])
    if not MIN_WORDS <= total <= MAX_WORDS:
        raise ValueError(f"{compound.facts.material_id} has a narrative of {total} words.")
    return [opening, *structure], chemistry
