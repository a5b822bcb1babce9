"""Builds the bundled data set: crystals, narratives, questions and properties in a parquet file.

python -m tools.build_materials_project_mini --crystals=CRYSTALS.parquet --facts_cache=facts.pkl

The crystals may be the shipped file itself, whose texts are then regenerated. Requires the extra
`narratives` (pymatgen, spglib). The output is reproducible for the same package versions.
"""

from __future__ import annotations

import argparse
import hashlib
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from clac_jax.datasets.record import PROPERTIES
from clac_jax.text.sentences import split_sentences
from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.facts import Facts, compute_facts
from tools.materials_project_mini.narrative import narrative
from tools.materials_project_mini.questions import question_columns
from tools.materials_project_mini.splits import splits_of

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "clac_jax/datasets/materials_project_mini/materials_project_mini.parquet"
COORDINATE_DECIMALS = 7


def load_facts(rows: list[dict[str, Any]], cache: Path | None) -> list[Facts]:
    """The facts of all rows, in order; computed in minutes, or loaded from the cache file."""
    known: dict[str, Facts] = {}
    if cache is not None and cache.exists():
        known = {facts.material_id: facts for facts in pickle.loads(cache.read_bytes())}
    for row in tqdm(rows, mininterval=10):
        if row["material_id"] not in known:
            known[row["material_id"]] = compute_facts(row)
    if cache is not None:
        cache.write_bytes(pickle.dumps(list(known.values())))
    return [known[row["material_id"]] for row in rows]


def generator(material_id: str, purpose: str) -> random.Random:
    """The random generator for a row and purpose, the same in every build."""
    seed = hashlib.sha256(f"{purpose}/{material_id}".encode()).digest()
    return random.Random(int.from_bytes(seed[:8], "big"))


def narrative_of(compound: Compound, row: dict[str, Any]) -> dict[str, str]:
    """The two text columns of one row.

    Raises:
        ValueError: the sentence splitter does not recover the sentences, or the first sentence
            lacks the formula.
    """
    properties = {name: row[name] for name in PROPERTIES if row.get(name) is not None}
    rng = generator(row["material_id"], "narrative")
    structure, chemistry = narrative(compound, properties, rng)
    text, explanation = " ".join(structure), " ".join(chemistry)
    if split_sentences(f"{text} {explanation}") != structure + chemistry:
        raise ValueError(f"{row['material_id']}: sentences are split wrongly in: {text}")
    if compound.facts.formula not in structure[0]:
        raise ValueError(f"{row['material_id']}: {structure[0]} lacks {compound.facts.formula}.")
    return {"gpt_text": text, "gpt_explanation": explanation}


def build(rows: list[dict[str, Any]], facts: list[Facts]) -> pa.Table:
    """Builds the table of the bundled data set."""
    compounds = [Compound(one) for one in facts]
    texts = [narrative_of(c, row) for c, row in zip(compounds, rows, strict=True)]
    splits = splits_of(rows)
    narratives = [" ".join(text.values()) for text in texts]
    columns: dict[str, Any] = {
        name: [row[name] for row in rows] for name in ("material_id", "formula")
    }
    columns["lattice"] = [_rounded(row["lattice"]) for row in rows]
    numbers = [row["atomic_numbers"] for row in rows]
    columns["atomic_numbers"] = pa.array(numbers, pa.list_(pa.int16()))
    columns["frac_coords"] = [_rounded(row["frac_coords"]) for row in rows]
    columns |= {name: [text[name] for text in texts] for name in texts[0]}
    columns |= question_columns(compounds, narratives, splits)
    given = [name for name in (*PROPERTIES, "source") if name in rows[0]]
    columns |= {name: [row[name] for row in rows] for name in given}
    return pa.table(columns)


def _rounded(values: list[float]) -> list[float]:
    return (np.round(values, COORDINATE_DECIMALS) + 0.0).tolist()  # + 0.0: no negative zero


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=Path, required=True)
    parser.add_argument("--facts_cache", type=Path)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    rows = pq.read_table(options.crystals).to_pylist()
    table = build(rows, load_facts(rows, options.facts_cache))
    unfinished = options.output.with_suffix(".tmp")
    pq.write_table(table, unfinished, compression="zstd", compression_level=19)
    unfinished.replace(options.output)
    size = options.output.stat().st_size / 1e6
    print(f"{len(rows):,} crystals, {size:.2f} MB in {options.output}")


if __name__ == "__main__":
    main()
