"""Short queries in words, and formulas: how many of the first ten crystals fit.

python -m benchmarks.queries "mini=mini" ["base=outputs/base@best" ...]

All included crystals are ranked. Whether one fits is read from its data, and from its text where
that names a structure type or a motif; the model sees only the crystal. Most of the crystals were
trained on: these figures show what a user sees, and `clac-jax evaluate` what a model has learned.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import clac_jax
from benchmarks.common import RESULTS, write_results
from clac_jax import datasets
from clac_jax.crystals.descriptors import describe
from clac_jax.crystals.elements import atomic_number
from clac_jax.datasets.record import Record
from clac_jax.evaluation.inverse_design import top_k
from clac_jax.text.formula_names import spelled_out

FIRST = 10
FORMULAS = 150


def says(record: Record, pattern: str) -> bool:
    """Whether the crystal's text matches a regular expression."""
    return bool(re.search(pattern, record.text_of("narratives", None)))


def has(record: Record, *symbols: str) -> bool:
    """Whether the crystal has all these elements."""
    return {atomic_number(each) for each in symbols} <= set(record.atomic_numbers.tolist())


def gap(record: Record) -> float:
    """The band gap in eV; -1 if it is not known."""
    return record.properties.get("band gap", -1.0)


def group(record: Record) -> int:
    """The number of the space group."""
    return describe(record.crystal()).space_group


def is_type(name: str) -> Callable[[Record], bool]:
    """Whether a crystal's text names this structure type."""
    return lambda record: says(record, name)


def in_group(number: int) -> Callable[[Record], bool]:
    """Whether a crystal's space group has this number."""
    return lambda record: group(record) == number


def in_system(first: int, last: int, kind: str) -> Callable[[Record], bool]:
    """Whether a crystal's space group is in this range and its text calls it this."""
    return lambda record: first <= group(record) <= last and says(record, rf"(?i)\b{kind}\b")


def density(record: Record) -> float:
    """The density in g/cm^3."""
    return float(describe(record.crystal()).cell[3])


QUERIES: dict[str, Callable[[Record], bool]] = {
    # structure types
    "A cubic perovskite.": lambda r: says(r, "(?<!anti)perovskite") and group(r) >= 195,
    "A cubic antiperovskite.": is_type("antiperovskite"),
    "A half-Heusler compound.": is_type("half-Heusler"),
    "A full-Heusler alloy.": is_type("full-Heusler"),
    "A compound with the rock salt structure.": lambda r: (
        says(r, "rock salt") and not says(r, "layered rock salt")
    ),
    "A Laves phase.": is_type("Laves"),
    "A compound with the cesium chloride structure.": is_type("cesium chloride"),
    "The crystal has the ThCr2Si2 structure.": is_type("ThCr2Si2"),
    "A chalcopyrite.": is_type("chalcopyrite"),
    "A zincblende semiconductor.": is_type("zincblende"),
    "A wurtzite crystal.": is_type("wurtzite"),
    "A spinel.": is_type("spinel"),
    "A pyrochlore.": is_type("pyrochlore"),
    "A crystal of discrete molecules held together by weak forces.": is_type(
        "discrete molecules|molecular"
    ),
    # symmetry
    "The space group is P6_3/mmc (No. 194).": in_group(194),
    "The space group is Fm-3m (No. 225).": in_group(225),
    "Space group Pnma.": in_group(62),
    "It crystallizes in the space group I4/mmm.": in_group(139),
    "The structure is monoclinic with space group C2/c.": in_group(15),
    "A hexagonal nitride.": in_system(168, 194, "nitride"),
    "A monoclinic phosphate.": in_system(3, 15, "phosphate"),
    "A cubic fluoride.": in_system(195, 230, "fluoride"),
    "An orthorhombic sulfide.": in_system(16, 74, "sulfide"),
    "A tetragonal intermetallic compound.": in_system(75, 142, "intermetallic"),
    # surroundings of atoms
    "Every lithium atom is surrounded by four oxygen atoms in a tetrahedral arrangement.": (
        lambda r: has(r, "Li", "O") and says(r, "(?i)lithium[^.]*tetrahedr|tetrahedr[^.]*lithium")
    ),
    "Silicon atoms in tetrahedra of oxygen.": lambda r: (
        has(r, "Si", "O") and says(r, "(?i)silicon[^.]*tetrahedr|tetrahedr[^.]*silicon")
    ),
    "Titanium is octahedrally coordinated by oxygen.": lambda r: (
        has(r, "Ti", "O") and says(r, "(?i)titanium[^.]*octahedr|octahedr[^.]*titanium")
    ),
    # elements
    "A compound of lithium, iron and oxygen.": lambda r: has(r, "Li", "Fe", "O"),
    "A copper oxide.": lambda r: has(r, "Cu", "O"),
    "A hydride.": lambda r: says(r, r"(?i)\bhydride"),
    "A manganese silicide.": lambda r: has(r, "Mn", "Si") and not has(r, "O"),
    "An intermetallic compound of a rare earth and nickel.": lambda r: (
        has(r, "Ni")
        and says(r, "intermetallic")
        and any(57 <= number <= 71 for number in r.atomic_numbers.tolist())
    ),
    # properties
    "A layered oxide with a wide band gap.": lambda r: (
        says(r, "layer|two-dimensional|sheets") and has(r, "O") and gap(r) > 2
    ),
    "A sulfide semiconductor with a band gap of 2 eV.": lambda r: (
        has(r, "S") and not has(r, "O") and 1.5 < gap(r) < 2.5
    ),
    "A selenide with a band gap of 1 eV.": lambda r: has(r, "Se") and 0.5 < gap(r) < 1.5,
    "A fluoride with a band gap above 6 eV.": lambda r: has(r, "F") and gap(r) > 6,
    "A metallic oxide.": lambda r: has(r, "O") and 0 <= gap(r) <= 0.1,
    "A heavy metal alloy with a density of 15 g/cm^3.": lambda r: (
        abs(density(r) - 15) < 2 and gap(r) <= 0.1
    ),
    "A light material with a density of 2 g/cm^3.": lambda r: abs(density(r) - 2) < 0.3,
    "A very stable compound with a formation energy of -3 eV per atom.": lambda r: (
        abs(r.properties.get("formation energy per atom", 0) + 3) < 0.4
    ),
}


def first_of(model: clac_jax.Model, texts: list[str], crystals: np.ndarray) -> np.ndarray:
    """(texts, FIRST) int64 rows of the crystals with the highest scores, the best first."""
    return top_k(model.embed_texts(texts) @ crystals.T, FIRST)


def in_words(
    model: clac_jax.Model, records: list[Record], crystals: np.ndarray
) -> dict[str, dict[str, Any]]:
    """Per query: how many of the first crystals fit, which they are, and the share of all."""
    found = {}
    rows = first_of(model, list(QUERIES), crystals)
    for (query, fits), row in zip(QUERIES.items(), rows, strict=True):
        first = [records[k] for k in row]
        found[query] = {
            "fitting": sum(fits(record) for record in first),
            "first": [record.formula for record in first],
            "share_of_all": float(np.mean([fits(record) for record in records])),
        }
    return found


def by_formula(
    model: clac_jax.Model, records: list[Record], crystals: np.ndarray
) -> dict[str, dict[str, float]]:
    """Queries that are a formula: the shares with that formula first, and among the first ten."""
    known = np.array([record.formula for record in records])
    asked = np.random.default_rng(0).choice(np.unique(known), FORMULAS, replace=False).tolist()
    found = {}
    for how, texts in (("as given", asked), ("spelled out", [spelled_out(x) for x in asked])):
        right = known[first_of(model, texts, crystals)] == np.array(asked)[:, None]
        found[how] = {"top1": float(right[:, 0].mean()), "top10": float(right.any(axis=1).mean())}
    return found


def main() -> None:
    """Prints a table per model and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--output", type=Path, default=RESULTS / "queries.json")
    options = parser.parse_args()
    splits = (
        datasets.load("materials_project_mini", options.data_dir, name)
        for name in ("train", "validation", "test")
    )
    records = [split[k] for split in splits for k in range(len(split))]
    results = {}
    for name, _, path in (each.partition("=") for each in options.models):
        model = clac_jax.load(path)
        crystals = model.embed_crystals([record.crystal() for record in records])
        words = in_words(model, records, crystals)
        formulas = by_formula(model, records, crystals)
        results[name] = {"in words": words, "by formula": formulas}
        for query, found in words.items():
            print(
                f"{name}: {found['fitting']} of {FIRST} ({found['share_of_all']:.1%} of all)  "
                f"{query}  {' '.join(found['first'][:5])}",
                flush=True,
            )
        fitting = sum(found["fitting"] for found in words.values())
        print(f"{name}: {fitting} of {FIRST * len(QUERIES)} over all queries", flush=True)
        for how, shares in formulas.items():
            print(f"{name}: formulas {how}: {shares['top1']:.0%}, {shares['top10']:.0%} in ten")
    write_results(options.output, {"models": results})


if __name__ == "__main__":
    main()
