"""`clac-jax evaluate`: measures a trained model on a split of its data."""

from __future__ import annotations

import argparse
import textwrap
from typing import TYPE_CHECKING

from clac_jax.cli.command import NAMED
from clac_jax.errors import UserError

if TYPE_CHECKING:
    from clac_jax.inference.model import Model


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `evaluate`."""
    group.description = (
        "Measure a trained model on a split of its data. Writes eval.json, one parquet file with a "
        "row per example, and report.html, and prints the main tables. Every figure has its pool, "
        "its baseline and a 95 % interval."
    )
    group.add_argument(
        "model",
        metavar="MODEL",
        help=f"{NAMED}, a published folder, hf:owner/name or mini",
    )
    group.add_argument(
        "--tasks", default="", help="names of tasks, separated by commas (default: all of them)"
    )
    group.add_argument(
        "--split", default="test", help="train, validation or test (default: %(default)s)"
    )
    group.add_argument(
        "--out",
        metavar="FOLDER",
        help="folder of the files (default: RUN/eval/STEP; needed for a model that is not a run)",
    )
    group.add_argument(
        "--seed", type=int, default=42, help="seed of the resampling (default: %(default)s)"
    )
    group.add_argument(
        "--resamples",
        type=int,
        default=1000,
        help="resamples of the bootstrap intervals (default: %(default)s)",
    )
    group.add_argument("--data_dir", help="folder of the prepared data (default: that of the run)")
    group.add_argument("--dataset", help="name of a different data set (default: that of the run)")
    group.add_argument("--path", help="a different table or folder of CIF files")
    group.add_argument(
        "--classes",
        metavar="FILE",
        help="CSV of your own classes for the task classes, with the columns id,label and "
        "optionally sentence",
    )
    group.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    import clac_jax
    from clac_jax.evaluation import report
    from clac_jax.evaluation.classes import with_own_classes
    from clac_jax.evaluation.intervals import Resampling
    from clac_jax.evaluation.own_classes import read_classes
    from clac_jax.evaluation.page import plain_table
    from clac_jax.evaluation.pool import DataChoice, open_pool
    from clac_jax.evaluation.tasks import chosen_tasks, evaluate
    from clac_jax.evaluation.trained import eval_folder, training_data
    from clac_jax.stores.outputs import check_output

    if options.resamples < 1 or options.seed < 0:
        raise UserError("--resamples must be at least 1 and --seed at least 0. Change the flag.")
    own_classes = read_classes(options.classes) if options.classes else None
    model: Model = clac_jax.load(options.model)
    tasks = [name.strip() for name in options.tasks.split(",") if name.strip()]
    chosen_tasks(tasks, model.config.task)  # before the minutes of embedding
    folder = eval_folder(options.model, options.split, options.out)
    check_output(folder)
    choice = DataChoice(options.split, options.dataset, options.path, options.data_dir)
    resampling = Resampling(options.resamples, options.seed)
    pool = open_pool(model, choice, resampling, training_data(options.model))
    if own_classes is not None:
        pool = with_own_classes(pool, own_classes)
    sections = evaluate(pool, tasks)
    names = report.write(folder, pool, sections)
    for name, value in report.facts_of(pool):
        print(f"{name.lower():<12}{value}")
    for section in sections:
        if section.tables:
            print(f"\n{section.title}\n{'=' * len(section.title)}")
        else:
            print(f"\n{textwrap.fill(f'{section.title}: {section.intro}', 100)}")
        for table in section.tables:
            if table.in_terminal:
                print(f"\n{plain_table(table)}")
    print(f"\nwritten     {folder}: {_listed(names)}")
    return 0


def _listed(names: list[str]) -> str:
    tables = [name for name in names if name.endswith(".parquet")]
    others = [name for name in names if name not in tables]
    others += tables if len(tables) < 2 else [f"{len(tables)} tables (*.parquet)"]
    return ", ".join(others)
