"""Ten short queries in words, and how many of the first ten crystals fit.

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

FIRST = 10


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


QUERIES: dict[str, Callable[[Record], bool]] = {
    "A layered oxide with a wide band gap.": lambda r: (
        says(r, "layer|two-dimensional|sheets") and has(r, "O") and gap(r) > 2
    ),
    "A cubic perovskite.": lambda r: says(r, "perovskite") and group(r) >= 195,
    "A half-Heusler compound.": lambda r: says(r, "half-Heusler"),
    "A compound with the rock salt structure.": lambda r: (
        says(r, "rock salt") and not says(r, "layered rock salt")
    ),
    "A Laves phase.": lambda r: says(r, "Laves"),
    "A crystal of discrete molecules held together by weak forces.": lambda r: says(
        r, "discrete molecules|molecular"
    ),
    "The space group is P6_3/mmc (No. 194).": lambda r: group(r) == 194,
    "Every lithium atom is surrounded by four oxygen atoms in a tetrahedral arrangement.": (
        lambda r: has(r, "Li", "O") and says(r, "(?i)lithium[^.]*tetrahedr|tetrahedr[^.]*lithium")
    ),
    "A sulfide semiconductor with a band gap of 2 eV.": lambda r: (
        has(r, "S") and not has(r, "O") and 1.5 < gap(r) < 2.5
    ),
    "A heavy metal alloy with a density of 15 g/cm^3.": lambda r: (
        abs(float(describe(r.crystal()).cell[3]) - 15) < 2 and gap(r) <= 0.1
    ),
}


def measure(model: clac_jax.Model, records: list[Record]) -> dict[str, Any]:
    """Per query: how many of the first crystals fit, which they are, and the share of all."""
    crystals = model.embed_crystals([record.crystal() for record in records])
    found = {}
    for query, fits in QUERIES.items():
        scores = crystals @ model.embed_texts([query])[0]
        first = [records[k] for k in np.argsort(-scores)[:FIRST]]
        found[query] = {
            "fitting": sum(fits(record) for record in first),
            "first": [record.formula for record in first],
            "share_of_all": float(np.mean([fits(record) for record in records])),
        }
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
        results[name] = measure(clac_jax.load(path), records)
        for query, found in results[name].items():
            print(
                f"{name}: {found['fitting']} of {FIRST} ({found['share_of_all']:.1%} of all)  "
                f"{query}  {' '.join(found['first'][:5])}",
                flush=True,
            )
    write_results(options.output, {"models": results})


if __name__ == "__main__":
    main()
