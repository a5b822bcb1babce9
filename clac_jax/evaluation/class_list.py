"""Classes of crystals whose members the data know, and the sentences that ask for them.

A label follows from the properties, the symmetry or the composition of a crystal. Only what none of
these says, whether a crystal is layered and which structure type it has, is read in its text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clac_jax.crystals import elements
from clac_jax.datasets.record import Record
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEMS, crystal_system

MIN_MEMBERS = 5
"""A class needs this many crystals in it, and this many outside."""
COMMON_ELEMENT = 0.05
"""An element is a class if at least this share of the crystals contain it."""
WIDE_GAP = 3.0
"""The smallest band gap, eV, that is called wide."""
NEAR_HULL = 0.05
"""Energy above hull, eV/atom, below which a crystal is nearly stable."""
MAGNETIC = 0.1
"""Magnitude of the total magnetization, Bohr magnetons, above which a crystal is magnetic."""

# Name of a structure type, and a pattern of texts that mention it. Types whose names contain a
# shorter one do not count as that: "antiperovskite", "layered rock salt", "antifluorite".
_STRUCTURE_TYPES = (
    ("perovskite", r"\bperovskite"),
    ("antiperovskite", r"\banti-?perovskite"),
    ("rock salt", r"(?<!layered )\brock[ -]salt\b(?!-ordered)|\bhalite\b"),
    ("spinel", r"\bspinel"),
    ("half-Heusler", r"\bhalf-Heusler"),
    ("full-Heusler", r"\bfull-Heusler"),
    ("cesium chloride", r"\bca?esium chloride (?:structure|type)|\bCsCl[- ](?:structure|type)"),
    ("zincblende", r"\bzinc ?blende|\bsphalerite"),
    ("wurtzite", r"\bwurtzite"),
    ("fluorite", r"\bfluorite"),
    ("rutile", r"\brutile"),
    ("ThCr2Si2", r"\bThCr2Si2\b"),
    ("potassium hexachloroplatinate", r"\bpotassium hexachloroplatinate|\bK2PtCl6[- ]type"),
    ("Laves", r"\bLaves\b"),
    ("Cu3Au", r"\bCu3Au\b"),
    ("PbFCl", r"\bPbFCl\b|\bmatlockite"),
    ("pyrochlore", r"\bpyrochlore"),
    ("garnet", r"\bgarnet"),
    ("olivine", r"\bolivine"),
    ("ilmenite", r"\bilmenite"),
    ("corundum", r"\bcorundum"),
    ("delafossite", r"\bdelafossite"),
    ("chalcopyrite", r"\bchalcopyrite"),
    ("nickel arsenide", r"\bnickel arsenide structure|\bNiAs[- ]type"),
)
# "layered perovskite" and "layered rock salt" are names of structure types, not of sheets that are
# weakly bonded.
_LAYERED = re.compile(
    r"\blayered\b(?! perovskite| rock[ -]salt)|\b(?:two-dimensional|2D) (?:layer|sheet)"
    r"|\bvan der Waals (?:layer|gap|solid)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class ZeroShotClass:
    """A class, its members and its sentences.

    Attributes:
        group: classes of a group are alternatives, or ask for the same kind of fact.
        name: name in tables.
        labels: (n,) float64, 1 for members, 0 for others, NaN where unknown.
        positive: sentences that are true for members, in several wordings.
        negative: sentences that are true for others.
    """

    group: str
    name: str
    labels: np.ndarray
    positive: tuple[str, ...]
    negative: tuple[str, ...]

    @property
    def known(self) -> np.ndarray:
        """(m,) int64, the crystals whose label is known."""
        return np.flatnonzero(np.isfinite(self.labels))

    @property
    def is_large_enough(self) -> bool:
        """Whether it has enough members and enough others."""
        known = self.labels[self.known]
        return bool(min((known == 1).sum(), (known == 0).sum()) >= MIN_MEMBERS)


def classes_of(records: Sequence[Record], texts: Sequence[str]) -> list[ZeroShotClass]:
    """All classes, also those with few members or unknown labels.

    Args:
        records: the records of the pool.
        texts: their full texts.
    """
    return [
        *_electronic(records),
        *_stability(records),
        ZeroShotClass("structure", "layered", _found(_LAYERED, texts), *_LAYERED_SENTENCES),
        *alternatives("crystal system", _systems(records), _system_sentences),
        *alternatives(
            "structure type",
            {
                name: _found(re.compile(pattern, re.IGNORECASE), texts)
                for name, pattern in _STRUCTURE_TYPES
            },
            _type_sentences,
        ),
        *alternatives("contains", _common_elements(records), _element_sentences),
    ]


def alternatives(
    group: str, labels: dict[str, np.ndarray], sentences: Callable[[str], tuple[str, ...]]
) -> list[ZeroShotClass]:
    """Classes whose negative sentences are the positive ones of the other classes of the group.

    The sentences of classes that are too small to be measured are not used for the others.
    """
    large = {name for name, known in labels.items() if (known == 1).sum() >= MIN_MEMBERS}
    return [
        ZeroShotClass(
            group,
            name,
            known,
            sentences(name),
            tuple(text for other in labels if other in large - {name} for text in sentences(other)),
        )
        for name, known in labels.items()
    ]


def _electronic(records: Sequence[Record]) -> list[ZeroShotClass]:
    gap = _property(records, "band gap")
    moment = np.abs(_property(records, "total magnetization"))
    metal = (
        "This material is metallic according to PBE band structures.",
        "The computed band gap of this material is zero, as in a metal.",
        "It is a metal without a band gap.",
    )
    return [
        ZeroShotClass("electronic", "metal", _is(gap, gap <= 0), metal, (
            "This material is an insulator.",
            "This material is a semiconductor with a band gap.",
            "It has a wide band gap and is not a metal.",
        )),
        ZeroShotClass("electronic", f"wide gap (≥ {WIDE_GAP:g} eV)", _is(gap, gap >= WIDE_GAP), (
            "This material is a wide-gap insulator.",
            "This material is a wide-gap semiconductor.",
            "It has a wide band gap.",
        ), (*metal, "This material is a narrow-gap semiconductor.")),
        ZeroShotClass("electronic", "magnetic", _is(moment, moment > MAGNETIC), (
            "This material is magnetic.",
            "It is a ferromagnet with a net magnetization.",
            "This material has a magnetic moment.",
        ), (
            "This material is not magnetic.",
            "It is nonmagnetic, without a net magnetization.",
            "This material has no magnetic moment.",
        )),
    ]  # fmt: skip


def _stability(records: Sequence[Record]) -> list[ZeroShotClass]:
    energy = _property(records, "energy above hull")
    stable = (
        "This material lies on the convex hull and is thermodynamically stable.",
        "With an energy above hull of zero, it is a stable phase.",
        "This material is thermodynamically stable.",
    )
    unstable = (
        "This material lies far above the convex hull and is unstable.",
        "It is thermodynamically unstable.",
    )
    return [
        ZeroShotClass("stability", "stable (on the hull)", _is(energy, energy <= 0), stable, (
            *unstable, "This material lies above the convex hull and is metastable.",
        )),
        ZeroShotClass(
            "stability", f"nearly stable (< {NEAR_HULL:g} eV/atom)",
            _is(energy, energy < NEAR_HULL),
            (*stable, "It lies slightly above the convex hull."), unstable,
        ),
    ]  # fmt: skip


_LAYERED_SENTENCES = (
    (
        "This material is layered, with bonded sheets stacked on each other.",
        "The structure of this material is built from two-dimensional sheets.",
        "Its layers are held together weakly.",
    ),
    (
        "The bonds of this material form a three-dimensional framework.",
        "The structure of this material is a dense three-dimensional network.",
        "It is not layered.",
    ),
)


def _system_sentences(name: str) -> tuple[str, ...]:
    article = "an" if name[0] in "aeio" else "a"
    return (
        f"The crystal system of this material is {name}.",
        f"This material crystallizes in {article} {name} space group.",
        f"It has {article} {name} structure.",
    )


def _type_sentences(name: str) -> tuple[str, ...]:
    return (
        f"This material adopts the {name} structure.",
        f"This material belongs to the {name} structure type.",
        f"The arrangement of atoms is that of the {name} structure.",
    )


def _element_sentences(name: str) -> tuple[str, ...]:
    return (
        f"This material contains {name}.",
        f"It is a compound of {name}.",
        f"{name.capitalize()} is one of its elements.",
    )


def _systems(records: Sequence[Record]) -> dict[str, np.ndarray]:
    found = np.array([crystal_system(record) for record in records])
    return {
        name: (found == number).astype(np.float64) for number, name in enumerate(CRYSTAL_SYSTEMS)
    }


def _common_elements(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Labels by name of the element, the most frequent first."""
    contained = np.zeros((len(records), elements.MAX_ATOMIC_NUMBER + 1))
    for row, record in zip(contained, records, strict=True):
        row[record.atomic_numbers] = 1
    shares = contained.mean(axis=0)
    order = np.argsort(-shares, kind="stable")
    return {elements.name(int(z)): contained[:, z] for z in order if shares[z] >= COMMON_ELEMENT}


def _property(records: Sequence[Record], name: str) -> np.ndarray:
    return np.array([record.properties.get(name, math.nan) for record in records], np.float64)


def _is(values: np.ndarray, condition: np.ndarray) -> np.ndarray:
    """Labels of a condition on values; NaN where the value is unknown."""
    return np.where(np.isfinite(values), condition.astype(np.float64), np.nan)


def _found(pattern: re.Pattern[str], texts: Sequence[str]) -> np.ndarray:
    return np.array([float(pattern.search(text) is not None) for text in texts])
