"""Retrieval among crystals of a different source, by models that were trained on the included data.

python -m benchmarks.transfer "base=outputs/base@best" "composition=outputs/composition@best"

The crystals are the structures of the AFLOW library of crystallographic prototypes (Mehl et al.,
Comput. Mater. Sci. 136, S1, 2017), measured ones from the literature, as they come with pymatgen.
Their texts are written from computed facts like those of the included data. A crystal counts as
unseen if no crystal of the included data, of any split, has its reduced formula.
"""

from __future__ import annotations

import argparse
import gzip
import json
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pymatgen.analysis.prototypes

import clac_jax
from benchmarks.common import RESULTS, write_results
from clac_jax import datasets
from clac_jax.datasets.record import Record
from clac_jax.datasets.rows import record_of_row
from clac_jax.evaluation.intervals import Resampling
from clac_jax.evaluation.pool import DataFacts, Pool, embed_distinct, text_of
from clac_jax.evaluation.ranking import polymorph_ranks, pool_ranks, summarize
from clac_jax.input_pipeline.splits import SPLITS
from clac_jax.input_pipeline.views import without_formulas
from clac_jax.tasks.metrics import Ranks
from tools.build_materials_project_mini import narrative_of
from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.facts import compute_facts

ALL = "all crystals"
UNSEEN = "crystals of unseen formulas"


def prototypes() -> Iterator[dict[str, Any]]:
    """The crystals of the library as rows of a table, without texts."""
    from pymatgen.core import Structure

    (folder,) = pymatgen.analysis.prototypes.__path__
    with gzip.open(Path(folder) / "aflow_prototypes.json.gz") as file:
        entries = json.load(file)
    for number, entry in enumerate(entries):
        structure = Structure.from_dict(entry["snl"])
        yield {
            "material_id": f"{entry['tags']['aflow']}-{number}",
            "formula": structure.composition.reduced_formula,
            "lattice": structure.lattice.matrix.reshape(-1).tolist(),
            "atomic_numbers": list(structure.atomic_numbers),
            "frac_coords": structure.frac_coords.reshape(-1).tolist(),
        }


def records(cache: Path) -> tuple[list[Record], dict[str, str]]:
    """The crystals with their texts, and the reason for each that has none.

    Args:
        cache: file of the computed facts, which take a few minutes.
    """
    cache.parent.mkdir(parents=True, exist_ok=True)
    known = pickle.loads(cache.read_bytes()) if cache.exists() else {}
    found, without = [], {}
    for row in prototypes():
        name = row["material_id"]
        try:
            if name not in known:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of guessed radii and the like
                    known[name] = compute_facts(row)
                cache.write_bytes(pickle.dumps(known))
            found.append(record_of_row({**row, **narrative_of(Compound(known[name]), row)}))
        # No bonds are found (pymatgen has no radius of the element, which it reports by a
        # TypeError), or the text would be too short or too long.
        except (TypeError, ValueError) as error:
            without[name] = str(error)
    return found, without


def pool_of(model: clac_jax.Model, chosen: list[Record], resampling: Resampling) -> Pool:
    """The records embedded by a model."""
    crystals = [record.crystal() for record in chosen]
    texts = [text_of(record, model.config) for record in chosen]
    bare = [without_formulas(t, record) for t, record in zip(texts, chosen, strict=True)]
    return Pool(
        model=model,
        records=chosen,
        formulas=[crystal.formula for crystal in crystals],
        data=DataFacts("aflow_prototypes", "all", "", False),
        resampling=resampling,
        crystals=model.embed_crystals(crystals),
        texts=embed_distinct(model, texts),
        texts_no_formula=embed_distinct(model, bare),
    )


def figures(pool: Pool, is_counted: np.ndarray) -> dict[str, Any]:
    """Measures in the pool of all crystals, over the queries that are counted."""
    counted = np.flatnonzero(is_counted)
    formulas = np.asarray(pool.formulas)[counted]
    how = Resampling(pool.resampling.resamples, pool.resampling.seed, formulas)

    def top1(ranks: Ranks) -> list[float]:
        estimate = summarize(Ranks(ranks.ahead[counted], ranks.tied[counted]), how)["top1"]
        return [estimate.value, estimate.low, estimate.high]

    return {
        "queries": len(counted),
        "top1": {name: top1(ranks) for name, ranks in pool_ranks(pool).items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL")
    parser.add_argument("--cache", type=Path, default=Path("build/aflow_facts.pkl"))
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--output", type=Path, default=RESULTS / "transfer.json")
    options = parser.parse_args()
    chosen, without = records(options.cache)
    included = [
        record
        for split in SPLITS
        for record in datasets.load("materials_project_mini", options.data_dir, split)
    ]
    seen = {record.crystal().formula for record in included}
    is_unseen = np.array([record.crystal().formula not in seen for record in chosen])
    results: dict[str, Any] = {"crystals": len(chosen), "without a text": without, "models": {}}
    for each in options.models:
        name, _, model = each.partition("=")
        pool = pool_of(clac_jax.load(model), chosen, Resampling())
        polymorphs = polymorph_ranks(pool, pool.texts)
        assert polymorphs is not None
        results["models"][name] = {
            ALL: figures(pool, np.ones(len(pool), bool)),
            UNSEEN: figures(pool, is_unseen),
            "polymorphs": {
                "queries": len(polymorphs.queries),
                "own first": float(np.mean(polymorphs.ranks.credit(1))),
                "chance": float(np.mean(1 / polymorphs.sizes)),
            },
        }
        print(name, json.dumps(results["models"][name], indent=1))
    write_results(options.output, results)


if __name__ == "__main__":
    main()
