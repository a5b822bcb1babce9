"""`clac-jax goodput`: the share of a run's time spent on training, and where the rest went."""

from __future__ import annotations

import argparse
import json

from clac_jax.files.paths import local_path
from clac_jax.reporting.events import EVENTS_FILE, read_events
from clac_jax.reporting.goodput import format_goodput, goodput


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `goodput`."""
    group.add_argument("run_folder", metavar="RUN", help="the workdir of a run")
    group.add_argument("--json", action="store_true", help="print JSON")
    group.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    events, unread = read_events(local_path(options.run_folder, "RUN") / EVENTS_FILE)
    result = goodput(events, unread)
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        print(format_goodput(result, options.run_folder))
    return 0
