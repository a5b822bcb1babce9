"""Speed of the input pipeline: each part of drawing views on one core, and full batches.

    python -m benchmarks.data [--data_dir=data] [--output=benchmarks/results/data.json]

Two views of a crystal count as two crystals, as in training. Also measures the shortest contacts
that the two displacement laws leave.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.common import RESULTS, write_results
from clac_jax import datasets
from clac_jax.crystals.augment import perturb, smallest_distance, strain
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.graph import build_graph
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.input_pipeline.views import train_views, view_options
from clac_jax.models.encoders import encoder_needs
from clac_jax.text.formula import replace_formulas
from clac_jax.text.sentences import Tokenizer, split_sentences, text_view
from configs import base

NUM_EXAMPLES = 1000


def per_second(call: Callable[[int], object], views: int = 1) -> float:
    """Calls per second times `views`, the best of three rounds over NUM_EXAMPLES examples."""
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        for index in range(NUM_EXAMPLES):
            call(index)
        rates.append(views * NUM_EXAMPLES / (time.perf_counter() - start))
    return max(rates)


def contacts(law: str, crystals: list[Crystal]) -> dict[str, float]:
    """Fractions of crystals with atoms that a law moves close together, and the smallest ratio."""
    rng = np.random.default_rng(0)
    ratios, below = [], 0
    for crystal in crystals:
        if crystal.num_atoms > 1:
            after = smallest_distance(perturb(crystal, rng, law), own_images=True)
            ratios.append(after / smallest_distance(crystal, own_images=True))
            below += after < 1.0
    return {
        "under_one_angstrom": below / len(ratios),
        "under_half_of_the_original": float(np.mean(np.array(ratios) < 0.5)),
        "smallest_ratio": float(min(ratios)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--output", type=Path, default=RESULTS / "data.json")
    arguments = parser.parse_args()

    config = base.get_config()
    config.dataset.data_dir = arguments.data_dir
    config.use_textual_intramodal_loss = True
    options = view_options(config, encoder_needs(config))
    source = datasets.load("materials_project_mini", arguments.data_dir, "train")
    records = [source[index] for index in range(NUM_EXAMPLES)]
    crystals = [record.crystal() for record in records]
    texts = [record.text_of("narratives", None) for record in records]
    tokenizer = Tokenizer.from_folder("minilm")
    sizes = np.array([len(record.atomic_numbers) for record in records])
    of_22 = [crystals[k] for k in np.argsort(np.abs(sizes - 22), kind="stable")[:100]]
    fresh_sentences = itertools.cycle([s for text in texts for s in split_sentences(text)])
    rng = np.random.default_rng(0)
    rows = {
        "records read": per_second(lambda k: source[k]),
        "crystals checked": per_second(lambda k: records[k].crystal()),
        "crystal views": per_second(
            lambda k: (perturb(crystals[k], rng), strain(crystals[k], rng)), 2
        ),
        "graphs, 5 angstrom": per_second(lambda k: build_graph(crystals[k], 5.0)),
        "graphs, 6 angstrom": per_second(lambda k: build_graph(crystals[k], 6.0)),
        "crystals of 22 atoms, two views to graphs, 6 angstrom": per_second(
            lambda k: [
                build_graph(view, 6.0)
                for crystal in [of_22[k % len(of_22)]]
                for view in (perturb(crystal, rng), strain(crystal, rng))
            ],
            2,
        ),
        "sentences with formulas replaced": per_second(
            lambda k: replace_formulas(next(fresh_sentences), "material")
        ),
        "text views": per_second(lambda k: text_view(split_sentences(texts[k]), rng)),
        "texts tokenized": per_second(lambda k: tokenizer.encode(texts[k], 256)),
        "examples, both views of both": per_second(
            lambda k: train_views(records[k], k, 0, 0, options, tokenizer)
        ),
    }
    data = RunData(config, encoder_needs(config))
    start = time.perf_counter()
    batches = sum(1 for _ in data.train_batches(0, 0))
    rows["examples in packed batches"] = batches * config.batch_size / (time.perf_counter() - start)
    atoms = float(np.mean([crystal.num_atoms for crystal in crystals]))
    print(f"{atoms:.1f} atoms per crystal; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name, rate in rows.items():
        print(f"{name:<54}{rate:>10,.0f} /s")
    laws = {law: contacts(law, crystals) for law in ("legacy", "bounded")}
    for law, shares in laws.items():
        print(law, shares)
    result = {
        "atoms_per_crystal": round(atoms, 1),
        "per_second": {name: round(rate) for name, rate in rows.items()},
        "displaced_views": laws,
    }
    write_results(arguments.output, result)


if __name__ == "__main__":
    main()
