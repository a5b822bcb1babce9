"""One start of the program: what surrounds a run, from before its setup until after its end."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import ml_collections

from clac_jax.bucket.workdir import RunPlace, place_of
from clac_jax.distributed import processes, program_facts
from clac_jax.distributed.hang import HungRun
from clac_jax.distributed.preemption import StopSignals
from clac_jax.distributed.watchdog import NoWatchdog, Watch, Watchdog
from clac_jax.files.paths import local_path
from clac_jax.healing.healer import Healer
from clac_jax.reporting.events import EVENTS_FILE, Events, NoEvents
from clac_jax.training.compilation_cache import use_compilation_cache


@dataclass(frozen=True)
class Session:
    """The surroundings of a run: they exist before it is set up, and after it has ended.

    Attributes:
        place: the workdir; taken by the first process.
        stop: listens for the signals that request a stop.
        events: records what this process does; only in the first process.
        watchdog: ends the program if something takes far too long.
        healer: decides what happens when a step goes wrong.
    """

    place: RunPlace
    stop: StopSignals
    events: Events | NoEvents
    watchdog: Watch
    healer: Healer


@contextlib.contextmanager
def open_session(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    stop: StopSignals,
    began: float | None,
) -> Iterator[Session]:
    """Connects the processes, and takes the workdir for the time of the context.

    Args:
        config: the run's config, complete and checked.
        workdir: folder of the run, or its URL in a bucket.
        stop: listens for the signals that request a stop.
        began: unix seconds at which the program began; None for now.

    Raises:
        ProcessError: the processes cannot reach each other, or differ.
        WorkdirError, StoreError: the workdir cannot be used.
    """
    set_xla_flags(config)
    stop.before_leaving = processes.report_stop
    place = place_of(workdir, config.bucket)
    processes.start(config.distributed, lambda: program_facts.of_program(config))
    if config.compilation_cache:
        cache = local_path(
            config.compilation_cache, "config.compilation_cache", "each machine compiles for itself"
        )
        use_compilation_cache(cache)
    with contextlib.ExitStack() as stack:
        events: Events | NoEvents = NoEvents()
        if processes.is_first():
            stop.before_leaving = functools.partial(_before_leaving, place, events)
            stack.enter_context(place)
            before = {"lease_wait": place.seconds_waited}
            events = stack.enter_context(Events(place.folder / EVENTS_FILE, began, before))
            stop.before_leaving = functools.partial(_before_leaving, place, events)
            if place.is_remote and (link := processes.current_link()):
                link.loss.unsaved = f"What is not in {place.shown} yet is in {place.folder}."
        stack.enter_context(processes.report_lost_processes())
        watchdog = stack.enter_context(_make_watchdog(config, place, events, stop))
        yield Session(place, stop, events, watchdog, Healer(config.healing))


def _make_watchdog(
    config: ml_collections.ConfigDict,
    place: RunPlace,
    events: Events | NoEvents,
    stop: StopSignals,
) -> Watch:
    if not config.watchdog.enabled:
        return NoWatchdog()
    index, count = jax.process_index(), jax.process_count()
    hung = HungRun(place.folder, processes.current_link(), index, count)
    watchdog = Watchdog(config.watchdog, hung.end)
    # Without its supervisor, nothing would restart the run, and it would hold its workdir against
    # the next start. It may have passed on a signal before: its end is not a second one.
    watchdog.on_orphaned = lambda: stop.request("`clac-jax run` was killed")
    hung.doing = watchdog.describe
    hung.save_first = lambda: watchdog.save_first()
    hung.complete = place.complete
    hung.record = events.hung
    return watchdog


def _before_leaving(place: RunPlace, events: Events | NoEvents, signal_name: str) -> None:
    """Reports that a signal ends this process now, with nothing to save."""
    events.record("stopped", signal=signal_name)
    processes.report_stop(signal_name)
    place.complete()


def set_xla_flags(config: ml_collections.ConfigDict) -> None:
    """Sets the flags of XLA that a config needs; they are read with the first device."""
    flags, deterministic = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_deterministic_ops=true"
    if config.deterministic and deterministic not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {deterministic}".strip()
