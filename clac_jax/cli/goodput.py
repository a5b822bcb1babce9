"""`clac-jax goodput`: the share of a run's time spent on training, and where the rest went."""

from __future__ import annotations

import argparse
import json

from clac_jax.files.paths import local_path
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
    if is_url(run):
        url = f"{run.rstrip('/')}/{EVENTS_FILE}"
        try:
            path = local_copy(url, "RUN")
        except NotFoundError as error:
            raise NoEventsError(missing(url)) from error
    else:
        path = local_path(run, "RUN") / EVENTS_FILE
    events, unread = read_events(path)
    result = goodput(events, unread)
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        print(format_goodput(result, run))
    return 0
