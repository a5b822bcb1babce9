"""Linear probes of a trained model for structure, and the causes of its retrieval errors.

python -m benchmarks.probes "base=outputs/base" ["without descriptors=outputs/before" ...]

Linear probes: ridge regressions from the vectors of the training split to facts about the crystals,
with the penalty chosen on the validation split, measured on the test split. The vectors are those
of the two towers and of the joint space, for crystals and for texts. Then, for each text of the
test split whose first crystal is wrong, the facts that both crystals share.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import clac_jax
from benchmarks.common import RESULTS, write_results
from clac_jax.crystals.descriptors import NEIGHBOURS, Descriptors, describe
from clac_jax.datasets.record import Record
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEMS, crystal_system
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models.build import build_model
from clac_jax.models.encoders import encoder_needs

PENALTIES = (1e-3, 1e-2, 1e-1, 1.0, 10.0)
VECTORS = ("crystal tower", "text tower", "crystal, joint", "text, joint")


def vectors_of(model: clac_jax.Model, data: RunData, split: str) -> dict[str, np.ndarray]:
    """The vectors of all crystals and full texts of a split, by the names in VECTORS."""
    module = build_model(model.config.copy_and_resolve_references(), data.vocab_size)

    @jax.jit
    def vectors(variables: Any, batch: Any) -> list[jax.Array]:
        encoded = module.apply(variables, batch, method="encode")
        output = module.apply(variables, batch)
        towers = [encoded.graphs[0], encoded.texts[0]]
        return [*towers, output.graph_projections[0], output.text_projections[0]]

    parts: list[list[np.ndarray]] = []
    order = []
    for batch in data.eval_batches(split):
        one = jax.tree.map(lambda leaf: leaf[0], batch)
        mask = np.asarray(one.example_mask)
        parts.append([np.asarray(x)[mask] for x in vectors(model.variables, one)])
        order.append(np.asarray(one.example_index)[mask])
    places = np.argsort(np.concatenate(order))
    columns = [np.concatenate(column)[places] for column in zip(*parts, strict=True)]
    return dict(zip(VECTORS, columns, strict=True))


def facts_of(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """The probed facts: classes as integers, quantities as floats."""
    found: list[Descriptors] = [describe(record.crystal()) for record in records]
    nearest = [each.sites[:, 0].mean() for each in found]
    neighbours = [each.sites[:, NEIGHBOURS].mean() for each in found]
    return {
        "space group": np.array([each.space_group for each in found]),
        "crystal system": np.array([crystal_system(record) for record in records]),
        "log density": np.log([each.cell[3] for each in found]),
        "nearest distance": np.array(nearest, np.float64),
        "neighbours": np.array(neighbours, np.float64),
    }


def probe(x: Sequence[np.ndarray], y: Sequence[np.ndarray]) -> float:
    """Accuracy of a class, or R^2 of a quantity, on the last of the splits train, validation, test.

    Args:
        x: (n, F) vectors of each split.
        y: (n,) facts of each split.
    """
    mean, scale = x[0].mean(axis=0), x[0].std(axis=0) + 1e-6
    features = [np.c_[(each - mean) / scale, np.ones(len(each))].astype(np.float64) for each in x]
    is_class = y[0].dtype.kind == "i"
    classes = np.unique(y[0])
    target = (y[0][:, None] == classes).astype(float) if is_class else y[0][:, None]
    gram, right = features[0].T @ features[0], features[0].T @ target

    def quality(weights: np.ndarray, split: int) -> float:
        predicted = features[split] @ weights
        if is_class:
            return float(np.mean(classes[predicted.argmax(axis=1)] == y[split]))
        return float(1 - np.var(predicted[:, 0] - y[split]) / np.var(y[split]))

    fits = [
        np.linalg.solve(gram + penalty * len(x[0]) * np.eye(len(gram)), right)
        for penalty in PENALTIES
    ]
    best = max(fits, key=lambda weights: quality(weights, 1))
    return quality(best, 2)


def mistakes(records: Sequence[Record], found: dict[str, np.ndarray]) -> Counter[str]:
    """Common facts of the right crystal and the first one found, counted where that is wrong."""
    first = (found["text, joint"] @ found["crystal, joint"].T).argmax(axis=1)
    elements = [Counter(record.atomic_numbers.tolist()) for record in records]
    counts: Counter[str] = Counter()
    for own, other in enumerate(first.tolist()):
        if own != other:
            counts[_in_common(records[own], records[other], elements[own], elements[other])] += 1
    return counts


def _in_common(own: Record, other: Record, ours: Counter[int], theirs: Counter[int]) -> str:
    if {z: n * theirs.total() for z, n in ours.items()} == {
        z: n * ours.total() for z, n in theirs.items()
    }:
        groups = [describe(record.crystal()).space_group for record in (own, other)]
        return "composition" + (" and space group" if groups[0] == groups[1] else "")
    if set(ours) == set(theirs):
        return "elements"
    return "all elements but one" if len(set(ours) - set(theirs)) == 1 else "less"


def measure(path: str) -> dict[str, Any]:
    """The probes and the mistakes of a run."""
    model = clac_jax.load(path)
    config = model.config.copy_and_resolve_references()
    data = RunData(config, encoder_needs(config))
    splits = ("train", "validation", "test")
    records = [[data.splits[s][k] for k in range(data.split_sizes[s])] for s in splits]
    found = [vectors_of(model, data, split) for split in splits]
    facts = [facts_of(each) for each in records]
    probes = {
        name: {fact: probe([f[name] for f in found], [f[fact] for f in facts]) for fact in facts[0]}
        for name in VECTORS
    }
    return {"probes": probes, "mistakes": dict(mistakes(records[2], found[2]).most_common())}


def main() -> None:
    """Prints a table per run and writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--output", type=Path, default=RESULTS / "probes.json")
    options = parser.parse_args()
    results = {}
    for name, _, path in (run.partition("=") for run in options.runs):
        results[name] = measure(path)
        for vectors, facts in results[name]["probes"].items():
            shown = "  ".join(f"{fact} {value:.2f}" for fact, value in facts.items())
            print(f"{name}, {vectors}: {shown}", flush=True)
        print(f"{name}, wrong: {results[name]['mistakes']}", flush=True)
    note = f"accuracy over {len(CRYSTAL_SYSTEMS)} crystal systems and all space groups; else R^2"
    write_results(options.output, {"note": note, "runs": results})


if __name__ == "__main__":
    main()
