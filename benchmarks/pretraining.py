"""Does pretraining help? Properties of unseen crystals, learned from few and from many examples.

python -m benchmarks.pretraining outputs/base outputs/pretraining [--seeds 5]

Each property is learned from the first 100, 500 and all training crystals that have it: by the
graph encoder from the best checkpoint of the first run and from scratch, with the same settings and
number of steps; by a linear (ridge) regression from the vectors of the pretrained graph encoder,
which stays as it is; and by gradient boosting from the composition, without structure. All
are measured on the entire test split. The command, run again, resumes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

import clac_jax
from benchmarks.common import RESULTS, train_if_unfinished, write_results
from benchmarks.probes import PENALTIES, vectors_of
from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.datasets.record import Record
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models.encoders import encoder_needs

UNITS = {"band gap": "eV", "formation energy per atom": "eV/atom", "bulk modulus": "GPa"}
EPOCHS = {100: 100, 500: 30, 0: 8}  # by number of training crystals; 0: all
BATCH = {100: 32, 500: 32, 0: 64}
TRAINED = ("pretrained", "from scratch")
METHODS = (*TRAINED, "frozen, linear", "composition, boosted trees", "mean of the training")
SPLITS = ("train", "validation", "test")

Labelled = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Split -> indices of the records that have the property, and its values."""


def labelled(records: Mapping[str, list[Record]], name: str) -> Labelled:
    """The records that have a property."""
    found = {}
    for split in SPLITS:
        values = np.array([record.properties.get(name, np.nan) for record in records[split]])
        rows = np.flatnonzero(np.isfinite(values))
        found[split] = rows, values[rows]
    return found


def error(predicted: np.ndarray, wanted: np.ndarray) -> float:
    """The mean absolute error."""
    return float(np.mean(np.abs(predicted - wanted)))


def trained(
    name: str, start: str, size: int, seed: int, places: tuple[Path, Path]
) -> clac_jax.Model:
    """The model of one run, which is trained if it is not finished.

    Args:
        name: the property.
        start: one of TRAINED.
        size: number of training crystals; 0: all.
        seed: seed of the run.
        places: the workdir of the base run, and the folder of these runs.
    """
    base, workdir = places
    run = workdir / f"{name}-{start}-{size or 'all'}-{seed}".replace(" ", "_")
    train_if_unfinished(
        [
            f"--config=configs/finetune_property.py:{name}",
            f"--config.resume_from={f'{base}@best' if start == 'pretrained' else ''}",
            f"--config.dataset.max_examples={size}",
            f"--config.seed={seed}",
            f"--config.max_epochs={EPOCHS[size]}",
            f"--config.batch_size={BATCH[size]}",
            f"--config.checkpoint.every_n_epochs={max(1, EPOCHS[size] // 10)}",
            "--config.checkpoint.save_top_k=1",
        ],
        run,
    )
    return clac_jax.load(f"{run}@best")


def linear(vectors: Mapping[str, np.ndarray], data: Labelled, size: int) -> float:
    """The error of a ridge regression, its penalty chosen on the validation split."""
    rows, values = data["train"]
    rows, values = rows[: size or None], values[: size or None]
    x = vectors["train"][rows]
    mean, scale, middle = x.mean(axis=0), x.std(axis=0) + 1e-6, values.mean()

    def features(split: str, rows: np.ndarray) -> np.ndarray:
        return ((vectors[split][rows] - mean) / scale).astype(np.float64)

    x = features("train", rows)
    gram, right = x.T @ x, x.T @ (values - middle)
    weights = [
        np.linalg.solve(gram + penalty * len(x) * np.eye(len(gram)), right)
        for penalty in (*PENALTIES, 100.0)
    ]
    chosen, known = (each[: size or None] for each in data["validation"])
    inside = features("validation", chosen)
    best = min(weights, key=lambda w: error(inside @ w + middle, known))
    return error(features("test", data["test"][0]) @ best + middle, data["test"][1])


def boosted(compositions: Mapping[str, np.ndarray], data: Labelled, size: int, seed: int) -> float:
    """The error of gradient boosted trees from the share of each element."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    rows, values = data["train"]
    model = HistGradientBoostingRegressor(random_state=seed, min_samples_leaf=5)
    model.fit(compositions["train"][rows[: size or None]], values[: size or None])
    rows, values = data["test"]
    return error(model.predict(compositions["test"][rows]), values)


def composition(records: list[Record]) -> np.ndarray:
    """(n, E + 3): the share of each element, then mean, deviation and number of the elements."""
    table = np.zeros((len(records), MAX_ATOMIC_NUMBER + 4))
    for row, record in zip(table, records, strict=True):
        numbers = record.atomic_numbers
        np.add.at(row, numbers, 1 / len(numbers))
        row[-3:] = numbers.mean(), numbers.std(), len(set(numbers.tolist()))
    return table


def table(errors: Mapping[str, Mapping[str, Mapping[str, list[float]]]]) -> str:
    """The mean error over the seeds with its standard deviation; a row per property and size."""
    lines = [
        "| property | training crystals | " + " | ".join(METHODS) + " |",
        "| --- |" + " --- |" * (len(METHODS) + 1),
    ]
    for name, by_size in errors.items():
        for size, by_method in by_size.items():
            cells = []
            for method in METHODS:
                values = by_method.get(method, [])
                spread = f" ± {np.std(values, ddof=1):.3f}" if len(set(values)) > 1 else ""
                cells.append(f"{np.mean(values):.3f}{spread}" if values else "")
            lines.append(f"| {name}, {UNITS[name]} | {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="workdir of a finished run of configs/base.py")
    parser.add_argument("workdir", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "pretraining.json")
    options = parser.parse_args()
    places = options.base.resolve(), options.workdir.resolve()
    model = clac_jax.load(f"{places[0]}@best")
    config = model.config.copy_and_resolve_references()
    data = RunData(config, encoder_needs(config))
    records = {
        split: [data.splits[split][k] for k in range(data.split_sizes[split])] for split in SPLITS
    }
    vectors = {split: vectors_of(model, data, split)["crystal tower"] for split in SPLITS}
    compositions = {split: composition(records[split]) for split in SPLITS}
    errors: dict[str, dict[str, dict[str, list[float]]]] = {
        name: {str(size or len(labelled(records, name)["train"][0])): {} for size in EPOCHS}
        for name in UNITS
    }
    for seed in range(options.seeds):
        for name in UNITS:
            known = labelled(records, name)
            rows, values = known["test"]
            crystals = [records["test"][row].crystal() for row in rows]
            for size in EPOCHS:
                found = errors[name][str(size or len(known["train"][0]))]
                for start in TRAINED:
                    run = trained(name, start, size, seed, places)
                    mae = error(np.asarray(run.predict(crystals)), values)
                    found.setdefault(start, []).append(mae)
                by_seed = found.setdefault("composition, boosted trees", [])
                by_seed.append(boosted(compositions, known, size, seed))
                found["frozen, linear"] = [linear(vectors, known, size)]
                middle = known["train"][1][: size or None].mean()
                found["mean of the training"] = [error(np.full(len(values), middle), values)]
                print(json.dumps({f"{name}, {size or 'all'}": found}), flush=True)
            write_results(options.output, {"seeds": seed + 1, "mae": errors})
    print(table(errors))


if __name__ == "__main__":
    main()
