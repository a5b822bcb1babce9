"""Does pretraining help? Properties of unseen crystals, learned from few and from many examples.

python -m benchmarks.pretraining outputs/base outputs/pretraining [--seeds 5] [--processes 1]

Each property is learned from the first 100, 500 and all training crystals that have it: by the
graph encoder from the best checkpoint of the first run and from scratch, with the same settings and
number of steps; by a linear (ridge) regression from the vectors of the pretrained graph encoder,
which stays as it is; and by gradient boosting from the composition, without structure. The crystals
are the same for every seed. All are measured on the entire test split. The command, run again,
resumes.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import ml_collections
import numpy as np

import clac_jax
from benchmarks.common import RESULTS, ROOT, write_results
from benchmarks.probes import PENALTIES, vectors_of
from clac_jax.crystals.elements import MAX_ATOMIC_NUMBER
from clac_jax.datasets.record import Record
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models.encoders import encoder_needs
from clac_jax.training_run import train
from configs.finetune_property import get_config

UNITS = {"band gap": "eV", "formation energy per atom": "eV/atom", "bulk modulus": "GPa"}
EPOCHS = {100: 50, 500: 30, 0: 8}  # by number of training crystals; 0: all
BATCH = {100: 16, 500: 32, 0: 64}
TRAINED = ("pretrained", "from scratch")
METHODS = (*TRAINED, "frozen, linear", "composition, boosted trees", "mean of the training")
SPLITS = ("train", "validation", "test")

Labelled = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Split -> indices of the records that have the property, and its values."""
Run = tuple[int, str, int, str]
"""Seed, property, number of training crystals (0: all), and one of TRAINED: its start."""
Known = Mapping[str, tuple[list[clac_jax.Crystal], np.ndarray]]
"""Property -> the crystals of the test split that have it, and its values."""


@dataclass(frozen=True)
class Places:
    """Where the benchmark reads and writes.

    Attributes:
        base: workdir of the base run.
        runs: folder of its own runs.
    """

    base: Path
    runs: Path

    @property
    def errors(self) -> Path:
        """The file of the errors on the test split, a row per run."""
        return self.runs / "errors.jsonl"


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


def run_config(run: Run, base: Path) -> ml_collections.ConfigDict:
    """The config of one run, given the workdir of the base run."""
    seed, name, size, start = run
    config = get_config(name)
    config.resume_from = f"{base}@best" if start == "pretrained" else ""
    config.dataset.max_examples = size
    config.seed = seed
    config.max_epochs = EPOCHS[size]
    config.batch_size = BATCH[size]
    config.checkpoint.every_n_epochs = max(1, EPOCHS[size] // 10)
    config.checkpoint.save_top_k = 1
    return config


def folder_of(run: Run, config: ml_collections.ConfigDict) -> str:
    """Name of the folder of a run: a run of other settings has another folder."""
    seed, name, size, start = run
    settings = hashlib.sha256(config.to_json().encode()).hexdigest()[:8]
    return f"{name}-{start}-{size or 'all'}-{seed}-{settings}".replace(" ", "_")


def all_runs(seeds: int, sizes: Iterable[int]) -> list[Run]:
    """The runs in their order: all of the first seed, then all of the next."""
    return list(itertools.product(range(seeds), UNITS, sizes, TRAINED))


def train_and_measure(runs: Iterable[Run], places: Places, known: Known) -> None:
    """Trains the runs whose error is not in the file of the errors, and adds it.

    Args:
        runs: the runs.
        places: where they are.
        known: property -> the crystals of the test split that have it, and its values.
    """
    for run in runs:
        config = run_config(run, places.base)
        folder = folder_of(run, config)
        if folder in errors_so_far(places):
            continue
        train(config, places.runs / folder)
        crystals, values = known[run[1]]
        model = clac_jax.load(f"{places.runs / folder}@best")
        row = {"run": folder, "mae": error(np.asarray(model.predict(crystals)), values)}
        jax.clear_caches()  # programs of dozens of runs exhaust the memory mappings of a process
        with places.errors.open("a", encoding="utf-8") as file:  # also of other processes
            file.write(json.dumps(row) + "\n")


def errors_so_far(places: Places) -> dict[str, float]:
    """Folder of each run that has been measured -> its error."""
    if not places.errors.exists():
        return {}
    rows = map(json.loads, places.errors.read_text(encoding="utf-8").splitlines())
    return {row["run"]: row["mae"] for row in rows}


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


def train_in_processes(options: argparse.Namespace, places: Places) -> None:
    """Divides the runs among processes, and waits for all of them."""
    command = [sys.executable, "-m", "benchmarks.pretraining", str(places.base), str(places.runs)]
    command += [f"--seeds={options.seeds}", f"--processes={options.processes}", "--sizes"]
    command += map(str, options.sizes)
    environment = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    shares = [
        subprocess.Popen([*command, "--share", str(share)], cwd=ROOT, env=environment)
        for share in range(options.processes)
    ]
    try:
        codes = [share.wait() for share in shares]
    finally:
        for share in shares:
            share.kill()
    if any(codes):
        raise SystemExit("A process that trained has failed: see above.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="workdir of a finished run of configs/base.py")
    parser.add_argument("workdir", type=Path, help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(EPOCHS), choices=EPOCHS)
    parser.add_argument("--processes", type=int, default=1, help="number of processes that train")
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)  # of such a process
    parser.add_argument("--output", type=Path, default=RESULTS / "pretraining.json")
    options = parser.parse_args()
    places = Places(options.base.resolve(), options.workdir.resolve())
    places.runs.mkdir(parents=True, exist_ok=True)
    runs = all_runs(options.seeds, options.sizes)
    if options.processes > 1 and options.share is None:
        train_in_processes(options, places)
    model = clac_jax.load(f"{places.base}@best")
    config = model.config.copy_and_resolve_references()
    data = RunData(config, encoder_needs(config))
    records = {
        split: [data.splits[split][k] for k in range(data.split_sizes[split])] for split in SPLITS
    }
    labels = {name: labelled(records, name) for name in UNITS}
    known = {
        name: ([records["test"][row].crystal() for row in rows["test"][0]], rows["test"][1])
        for name, rows in labels.items()
    }
    if options.share is not None:
        train_and_measure(runs[options.share :: options.processes], places, known)
        return
    train_and_measure(runs, places, known)
    vectors = {split: vectors_of(model, data, split)["crystal tower"] for split in SPLITS}
    compositions = {split: composition(records[split]) for split in SPLITS}
    errors: dict[str, dict[str, dict[str, list[float]]]] = {name: {} for name in UNITS}
    measured = errors_so_far(places)
    for name, size in itertools.product(UNITS, EPOCHS):
        values, inside = known[name][1], labels[name]["train"][1]
        middle = inside[: size or None].mean()
        folders = {
            start: [
                folder_of(run, run_config(run, places.base))
                for run in ((seed, name, size, start) for seed in range(options.seeds))
            ]
            for start in TRAINED
        }
        errors[name][str(size or len(inside))] = {
            start: [measured[folder] for folder in names if folder in measured]
            for start, names in folders.items()
        } | {
            "frozen, linear": [linear(vectors, labels[name], size)],
            "composition, boosted trees": [
                boosted(compositions, labels[name], size, seed) for seed in range(options.seeds)
            ],
            "mean of the training": [error(np.full(len(values), middle), values)],
        }
    write_results(options.output, {"seeds": options.seeds, "mae": errors})
    print(table(errors))


if __name__ == "__main__":
    main()
