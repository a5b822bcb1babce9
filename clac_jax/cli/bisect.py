"""`clac-jax bisect`: the first step at which two runs differ, and what differs."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from clac_jax.cli.replay import EXIT_DIFFERENT
from clac_jax.errors import shown


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `bisect`."""
    group.description = (
        "Find the first step at which two runs have different bits, by their journals; then "
        "compute that step again in both, and show which arrays and elements differ, by how much, "
        "and what in their configs, versions and devices may be the reason."
    )
    group.add_argument("a", metavar="RUN_A", help="the workdir of a run, or its URL")
    group.add_argument("b", metavar="RUN_B", help="the workdir of the other one, or its URL")
    group.add_argument("--json", action="store_true", help="print JSON")
    group.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from clac_jax.replay.bisection import bisect
    from clac_jax.replay.history import read_history

    def say(line: str) -> None:
        print(shown(line), file=sys.stderr if options.json else sys.stdout, flush=True)

    left, right = read_history(options.a), read_history(options.b)
    with tempfile.TemporaryDirectory(prefix="clac_jax_bisect_") as scratch:
        result = bisect(left, right, Path(scratch), say)
    print(json.dumps(result.to_json(), indent=1) if options.json else "\n".join(result.lines()))
    return 0 if result.step is None else EXIT_DIFFERENT
