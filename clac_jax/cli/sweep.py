"""`clac-jax sweep`: many trials of one config, chosen by what earlier ones have shown."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from clac_jax.cli.command import commands
from clac_jax.distributed.preemption import EXIT_PREEMPTED, REPEAT_SECONDS, SIGNALS
from clac_jax.errors import EXIT_USER_ERROR, UserError, counted, warn
from clac_jax.files.paths import local_path

if TYPE_CHECKING:
    from clac_jax.sweeps.definition import Definition
    from clac_jax.sweeps.opened import Place
    from clac_jax.sweeps.storage import Storage, TrialRecord

WHY_LOCAL = "trials of a sweep are run in a local folder; the database may be anywhere"


def add(group: argparse.ArgumentParser) -> None:
    """Adds the `sweep` commands."""
    command = commands(group)
    start = command(
        "start", _start, "run trials until the budget is spent; run again, it continues"
    )
    start.add_argument("file", metavar="FILE", help="sweep file, or the name of a shipped one")
    start.add_argument(
        "--devices-per-trial",
        type=_count,
        default=0,
        metavar="N",
        help="GPUs or TPU chips of each trial (default: all of this machine, shared equally)",
    )
    start.add_argument(
        "--trials-at-once",
        dest="together",
        type=_count,
        default=0,
        metavar="N",
        help="trials that this program runs at the same time (default: as many as there are "
        "devices for; 1 on a CPU). `parallel` in the sweep file limits those of all programs",
    )
    ls = command("ls", _ls, "list the trials, the best ones first")
    show = command("show", _show, "show one trial: what it tried, its validations, its end")
    best = command("best", _best, "show the best trial, and export its model")
    best.add_argument("--export", metavar="FOLDER", help="publish the model with its value there")
    page = command("page", _page, "write sweep.html, which is also written whenever a trial ends")
    stop = command("stop", _stop, "make all programs of a sweep save their trials and stop")
    prune = command("prune", _prune, "end trials early, or free their disk space")
    revive = command("revive", _revive, "run pruned or failed trials again, to their end")
    prune.add_argument("numbers", type=int, nargs="*", metavar="TRIAL", help="end these trials")
    prune.add_argument(
        "--checkpoints",
        action="store_true",
        help="remove the checkpoints of all trials that have ended, except of the best ones; "
        "pruned trials can then only be run again from their beginning",
    )
    show.add_argument("number", type=int, metavar="TRIAL")
    revive.add_argument("numbers", type=int, nargs="+", metavar="TRIAL")
    for parser in (ls, show, best):
        parser.add_argument("--json", action="store_true", help="print JSON")
    for parser in (start, ls, show, best, page, stop, prune, revive):
        parser.add_argument(
            "--workdir", required=True, metavar="FOLDER", help="folder of the sweep"
        )
        parser.add_argument(
            "--storage",
            default="",
            metavar="URL",
            help="database, postgresql://USER@HOST/NAME; also by the variable CLAC_SWEEP_STORAGE "
            "(default: a file in the workdir)",
        )
        parser.add_argument(
            "--name",
            default="",
            help="name of the sweep in its database (default: that of the folder)",
        )


def _place(options: argparse.Namespace) -> Place:
    from clac_jax.sweeps.opened import place_of

    workdir = local_path(options.workdir, "--workdir", WHY_LOCAL)
    return place_of(workdir, options.storage, options.name)


def _start(options: argparse.Namespace) -> int:
    from clac_jax.sweeps import opened
    from clac_jax.sweeps.definition import read
    from clac_jax.sweeps.devices import slots
    from clac_jax.sweeps.free_workdir import check_workdir

    given, place = read(options.file), _place(options)
    environments = slots(options.devices_per_trial, options.together)
    check_workdir(given, place)
    with place.open() as storage, stop_requests() as stop:
        opened.check_folder(place, storage)
        definition = opened.prepared(given, storage)
        opened.record_folder(place, storage)
        opened.note(place, storage)
        finished = run_trials(definition, storage, place, environments, stop)
        if not finished:
            _say("the trials are saved; rerun the same command to continue.")
            return EXIT_PREEMPTED
        from clac_jax.sweeps.disk import ranked
        from clac_jax.sweeps.listing import summary

        trials = storage.trials()
        print(summary(definition, trials, place.workdir), flush=True)
    return 0 if ranked(definition, trials) else EXIT_USER_ERROR


def run_trials(
    definition: Definition,
    storage: Storage,
    place: Place,
    environments: Sequence[dict[str, str]],
    stop: threading.Event,
) -> bool:
    """Runs the trials of a sweep; returns whether it is finished.

    Args:
        definition: the sweep, complete.
        storage: its database.
        place: where it is.
        environments: variables of each trial that runs at the same time.
        stop: set to save the trials and return.
    """
    from clac_jax.sweeps import opened
    from clac_jax.sweeps.driver import Driver, Program
    from clac_jax.sweeps.population_run import PopulationDriver
    from clac_jax.sweeps.stored_view import write_page_of

    def show(definition: Definition, trials: Sequence[TrialRecord]) -> None:
        try:
            write_page_of(definition, trials, place.workdir, storage.name)
        except UserError as error:  # a full disk, which the trials themselves report
            warn(str(error))

    config = opened.write_config(place, storage)
    program = Program(place.workdir, environments, say=_say, after=show, config=str(config))
    kind = Driver if definition.population is None else PopulationDriver
    return kind(definition, storage, program).run(stop)


@contextlib.contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """An event that the first signal sets; a later one ends this program and its trials."""
    stop, first = threading.Event(), [0.0]

    def receive(number: int, frame: FrameType | None) -> None:
        if not stop.is_set():
            first[0] = time.monotonic()
            stop.set()
            _say(f"{signal.Signals(number).name}: the trials are being saved.")
        elif time.monotonic() - first[0] > REPEAT_SECONDS:
            raise SystemExit(128 + number)

    under_nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    heard = [number for number in SIGNALS if number != signal.SIGHUP or not under_nohup]
    previous = {number: signal.signal(number, receive) for number in heard}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _ls(options: argparse.Namespace) -> int:
    from clac_jax.sweeps import listing

    place, definition, trials = _read(options)
    if options.json:
        print(json.dumps([listing.to_json(trial, place.workdir) for trial in trials], indent=1))
    else:
        print(listing.table(definition, trials))
    return 0


def _show(options: argparse.Namespace) -> int:
    from clac_jax.sweeps import listing

    place, definition, trials = _read(options)
    trial = _trial(trials, options.number)
    if options.json:
        print(json.dumps(listing.to_json(trial, place.workdir), indent=1))
    else:
        print(listing.details(definition, trial, place.workdir))
    return 0


def _best(options: argparse.Namespace) -> int:
    from clac_jax.sweeps import listing
    from clac_jax.sweeps.disk import ranked
    from clac_jax.sweeps.opened import folder_of

    place, definition, trials = _read(options)
    best = next(iter(ranked(definition, trials)), None)
    if best is None:
        raise UserError(
            f"The sweep {place.name!r} has no complete trial yet. Continue it, or "
            "revive one of its trials."
        )
    folder = folder_of(place.workdir, best)
    if options.export:
        _check_here(folder, best)
        from clac_jax.inference.publish import publish
        from clac_jax.sweeps.best_model import checkpoint_name

        print(publish(checkpoint_name(definition, best, folder), options.export, None, None))
        return 0
    if options.json:
        print(json.dumps(listing.to_json(best, place.workdir), indent=1))
    else:
        print(listing.details(definition, best, place.workdir))
    return 0


def _page(options: argparse.Namespace) -> int:
    from clac_jax.sweeps.stored_view import write_page_of

    place, definition, trials = _read(options)
    print(write_page_of(definition, trials, place.workdir, place.name))
    return 0


def _stop(options: argparse.Namespace) -> int:
    from clac_jax.sweeps.opened import stored_definition
    from clac_jax.sweeps.storage import State

    with _place(options).open_started() as storage:
        stored_definition(storage)
        storage.ask_all_to_stop()
        running = sum(trial.state is State.RUNNING for trial in storage.trials())
    if running:
        print(f"requested: the programs that run {counted(running, 'trial')} save and stop now.")
    else:
        print("no trial is running; a program that waits for one stops.")
    return 0


def _prune(options: argparse.Namespace) -> int:
    from clac_jax.sweeps.disk import free_checkpoints
    from clac_jax.sweeps.opened import stored_definition
    from clac_jax.sweeps.storage import State

    if not options.numbers and not options.checkpoints:
        raise UserError("Nothing to prune. Give numbers of trials, or --checkpoints.")
    place = _place(options)
    with place.open_started() as storage:
        definition, trials = stored_definition(storage), storage.trials()
        for number in options.numbers:
            trial = _trial(trials, number)
            if trial.state.has_ended:
                raise UserError(f"Trial {number} has ended ({trial.state.value}) already.")
            storage.ask(number, "prune")
            runs = trial.state is State.RUNNING
            when = "the program that runs it has saved it" if runs else "a program takes it"
            print(f"trial {number} ends once {when}.")
        if options.checkpoints:
            ended = (State.COMPLETE, State.PRUNED, State.FAILED)
            lines = list(free_checkpoints(definition, trials, place.workdir, ended))
            print("\n".join(lines) or "no checkpoints to remove.")
    return 0


def _revive(options: argparse.Namespace) -> int:
    from clac_jax.sweeps.opened import stored_definition
    from clac_jax.sweeps.storage import State
    from clac_jax.sweeps.study_view import revived

    with _place(options).open_started() as storage:
        stored_definition(storage)
        trials = storage.trials()
        for number in options.numbers:
            trial = _trial(trials, number)
            if trial.state not in (State.PRUNED, State.FAILED):
                raise UserError(
                    f"Trial {number} is {trial.state.value}. Only pruned and failed ones can be "
                    "revived."
                )
            storage.revive(trial, revived(trial))
            print(f"trial {number} waits; `clac-jax sweep start` runs it to its end.")
    return 0


def _read(options: argparse.Namespace) -> tuple[Place, Definition, list[TrialRecord]]:
    from clac_jax.sweeps.opened import stored_definition

    place = _place(options)
    with place.open_started() as storage:
        return place, stored_definition(storage), storage.trials()


def _trial(trials: Sequence[TrialRecord], number: int) -> TrialRecord:
    if not 0 <= number < len(trials):
        has = f"trials 0 to {len(trials) - 1}" if trials else "no trials yet"
        raise UserError(f"The sweep has no trial {number}. It has {has}.")
    return trials[number]


def _check_here(folder: Path, trial: TrialRecord) -> None:
    if not os.path.isdir(folder):
        where = trial.result.get("host") or "another machine"
        raise UserError(
            f"Trial {trial.number} ran on {where}, and {folder} is not here. Run the command there "
            "or copy the folder."
        )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 1 or more")
    return int(text)


def _say(text: str) -> None:
    print(f"sweep     {text}", file=sys.stderr, flush=True)
