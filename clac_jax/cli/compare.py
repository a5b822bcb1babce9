"""`clac-jax compare`: evaluated models side by side."""

from __future__ import annotations

import argparse
import json

from clac_jax.errors import UserError


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `compare`."""
    group.description = (
        "Compare evaluated models: differences example by example with their intervals (paired "
        "bootstrap), the figures side by side, the keys of the config that differ, and the "
        "learning curves. The first model is the one that the others are compared with. Run "
        "`clac-jax evaluate` on each of them before."
    )
    group.add_argument(
        "models",
        metavar="RUN",
        nargs="+",
        help="RUN, RUN@best, RUN@step=5000, ..., or the folder of an evaluation; at least two",
    )
    group.add_argument("--split", default="test", help="the evaluated split (default: %(default)s)")
    group.add_argument(
        "--common",
        action="store_true",
        help="compare evaluations on different data as well, on the crystals that all have",
    )
    group.add_argument(
        "--seed", type=int, default=42, help="seed of the resampling (default: %(default)s)"
    )
    group.add_argument(
        "--resamples", type=int, default=1000, help="number of resamples (default: %(default)s)"
    )
    group.add_argument("--json", metavar="FILE", help="write everything as JSON")
    group.add_argument("--html", metavar="FILE", help="write everything as one page of HTML")
    group.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    from clac_jax.evaluation.compare_report import html_of, sections_of, to_json
    from clac_jax.evaluation.comparison import check_pools
    from clac_jax.evaluation.intervals import Resampling
    from clac_jax.evaluation.page import plain_table
    from clac_jax.evaluation.results import open_results
    from clac_jax.files.atomic import write_atomically
    from clac_jax.stores.outputs import output_file

    if len(options.models) < 2:
        raise UserError("There is nothing to compare with. Name at least two models.")
    if options.resamples < 1 or options.seed < 0:
        raise UserError("--resamples must be at least 1 and --seed at least 0. Change the flag.")
    models = [open_results(name, options.split) for name in options.models]
    check_pools(models, options.common)
    sections = sections_of(models, options.common, Resampling(options.resamples, options.seed))
    for number, model in enumerate(models):
        step = f"step {model.step}" if model.step is not None else "not evaluated"
        print(f"{chr(ord('A') + number)}  {model.name} ({step})")
    for section in sections:
        for table in section.tables:
            if table.in_terminal and table.rows:
                print(f"\n{plain_table(table)}")
    content = json.dumps(to_json(models, sections), indent=1) + "\n"
    for flag, text in (("json", content), ("html", html_of(models, sections))):
        if (name := getattr(options, flag)) is not None:
            with output_file(name, f"--{flag}") as path:
                write_atomically(path, text)
            print(f"\nwritten  {name}")
    return 0
