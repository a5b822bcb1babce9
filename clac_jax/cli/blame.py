"""`clac-jax blame`: every step of a run in which an example was used."""

from __future__ import annotations

import argparse
import json


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `blame`."""
    group.description = (
        "List every step of a run in which an example was used, with the loss before, at and after "
        "it, and how far that is from the steps around it."
    )
    group.add_argument("run_folder", metavar="RUN", help="the workdir of a run, or its URL")
    group.add_argument(
        "--example",
        required=True,
        metavar="ID",
        help="id of the example in the data set, e.g. mp-149, or its number in the training split",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from clac_jax.replay.history import read_history
    from clac_jax.replay.usage import blame

    result = blame(read_history(options.run_folder), options.example)
    print(json.dumps(result.to_json(), indent=1) if options.json else "\n".join(result.lines()))
    return 0
