"""Writes the embedded data set: crystals, narratives, questions and properties in one parquet.

python -m tools.build_materials_project_mini --crystals=CRYSTALS.parquet --facts_cache=facts.pkl

The crystals may be the shipped file itself. Needs the extra `narratives` (pymatgen, spglib). The
same crystals and the same package versions give the same file.
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

from clac_jax.text import split_sentences
from tools.materials_project_mini import questions
from tools.materials_project_mini.facts import Facts, compute_facts
from tools.materials_project_mini.narrative import MAX_WORDS, MIN_WORDS, narrative

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "clac_jax/datasets/materials_project_mini/materials_project_mini.parquet"

PROPERTIES = (
    "formation energy per atom",
    "band gap",
    "energy above hull",
    "bulk modulus",
    "shear modulus",
    "poisson ratio",
    "elastic anisotropy",
    "refractive index",
    "dielectric constant",
    "electronic dielectric constant",
    "piezoelectric modulus",
)
COORDINATE_DECIMALS = 7


def load_facts(rows: list[dict[str, Any]], cache: Path) -> list[Facts]:
    """The facts of all rows, computed once (minutes) and kept in the cache file."""
    if cache.exists():
        return pickle.loads(cache.read_bytes())
    facts = [compute_facts(row) for row in tqdm(rows, mininterval=10)]
    cache.write_bytes(pickle.dumps(facts))
    return facts


def texts_of(row: dict[str, Any], facts: Facts, groups: list[tuple[str, int, str]]) -> dict:
    """The text columns of one row; random choices are seeded by its id.

    Raises:
        ValueError: a narrative is too short or too long, or its sentences cannot be told apart.
    """
    seed = hashlib.sha256(row["material_id"].encode()).digest()
    rng = random.Random(int.from_bytes(seed[:8], "big"))
    properties = {name: row[name] for name in PROPERTIES if row[name] is not None}
    structure, chemistry = narrative(facts, properties, rng)
    text, explanation = " ".join(structure), " ".join(chemistry)
    words = len(text.split()) + len(explanation.split())
    if not MIN_WORDS <= words <= MAX_WORDS:
        raise ValueError(f"{row['material_id']}: {words} words: {text} {explanation}")
    if split_sentences(f"{text} {explanation}") != structure + chemistry:
        raise ValueError(f"{row['material_id']}: its sentences are split wrongly: {text}")
    if facts.formula not in text:
        raise ValueError(f"{row['material_id']}: the text does not name {facts.formula}: {text}")
    return {
        "gpt_text": text,
        "gpt_explanation": explanation,
        "structure_question_list": questions.structure_question(facts, groups, rng),
        "composition_question_list": questions.composition_question(facts, rng),
        "oxide_question_list": questions.oxide_question(facts, rng),
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=Path, required=True)
    parser.add_argument("--facts_cache", type=Path, required=True)
    options = parser.parse_args()
    rows = pq.read_table(options.crystals).to_pylist()
    facts = load_facts(rows, options.facts_cache)
    groups = [(f.space_group, f.space_group_number, f.crystal_system) for f in facts]
    texts = [texts_of(row, fact, groups) for row, fact in zip(rows, facts, strict=True)]
    columns = {
        "material_id": [row["material_id"] for row in rows],
        "formula": [row["formula"] for row in rows],
        "lattice": [np.round(row["lattice"], COORDINATE_DECIMALS).tolist() for row in rows],
        "atomic_numbers": pa.array([row["atomic_numbers"] for row in rows], pa.list_(pa.int16())),
        "frac_coords": [
            (np.round(row["frac_coords"], COORDINATE_DECIMALS) + 0.0).tolist() for row in rows
        ],
        "source": [row["source"] for row in rows],
        **{name: [text[name] for text in texts] for name in texts[0]},
        **{name: [row[name] for row in rows] for name in PROPERTIES},
    }
    pq.write_table(pa.table(columns), OUTPUT, compression="zstd", compression_level=22)
    size = OUTPUT.stat().st_size
    print(f"{len(rows):,} crystals, {size / 1e6:.2f} MB in {OUTPUT}")


if __name__ == "__main__":
    main()
