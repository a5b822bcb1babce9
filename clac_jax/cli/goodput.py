"""`clac-jax goodput`: the share of a run's time spent on training, and where the rest went."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from clac_jax.files.paths import local_path
from clac_jax.healing.actions import actions_in, tell
from clac_jax.journal.journal_file import STARTS_FILE
from clac_jax.journal.journal_file import read_events as read_starts
from clac_jax.reporting.event_reader import NoEventsError, missing, read_events
from clac_jax.reporting.events import EVENTS_FILE
from clac_jax.reporting.goodput import format_goodput, goodput
from clac_jax.stores.copies import local_copy
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.url import is_url


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `goodput`."""
    group.add_argument("run_folder", metavar="RUN", help="the workdir of a run, or its URL")
    group.add_argument("--json", action="store_true", help="print JSON")
    group.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    run = options.run_folder
    path = _file(run, EVENTS_FILE)
    if path is None:
        raise NoEventsError(missing(f"{run.rstrip('/')}/{EVENTS_FILE}"))
    events, unread = read_events(path)
    result = goodput(events, unread)
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
        return 0
    print(format_goodput(result, run))
    starts = _file(run, STARTS_FILE)
    if starts is not None and (story := tell(actions_in(read_starts(starts)))):
        print(f"\n{story}")
    return 0


def _file(run: str, name: str) -> Path | None:
    """A file of a run, or a local copy of it; None if its bucket lacks it."""
    if not is_url(run):
        return local_path(run, "RUN") / name
    try:
        return local_copy(f"{run.rstrip('/')}/{name}", "RUN")
    except NotFoundError:
        return None
