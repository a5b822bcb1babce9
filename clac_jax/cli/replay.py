"""`clac-jax replay`: a step of a run computed again, and looked into."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from clac_jax.errors import UserError, shown
from clac_jax.files.paths import local_path

if TYPE_CHECKING:
    from clac_jax.replay.history import History
    from clac_jax.replay.replayer import Replayer

EXIT_DIFFERENT = 1
"""Exit code of a command that succeeded and found a difference."""


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `replay`."""
    group.description = (
        "Compute a step of a run again, from the nearest checkpoint before it, and show what is in "
        "it: whether it has the bits that the run has recorded, its examples and their loss, and "
        "the gradient. Nothing in the workdir is changed. Run it in the folder in which the run "
        "was started, since the paths in its config may be relative."
    )
    group.add_argument("run_folder", metavar="RUN", help="the workdir of a run, or its URL")
    which = group.add_mutually_exclusive_group(required=True)
    which.add_argument("--step", type=int, metavar="N", help="the step, from 1")
    which.add_argument(
        "--every",
        action="store_true",
        help="check all steps from --from to --to against the journal",
    )
    group.add_argument(
        "--from", dest="first", type=int, metavar="A", help="first step of --every (default: 1)"
    )
    group.add_argument(
        "--to",
        dest="last",
        type=int,
        metavar="B",
        help="last step of --every (default: the newest)",
    )
    group.add_argument(
        "--examples", action="store_true", help="list all examples of the step, with their views"
    )
    group.add_argument(
        "--figure",
        metavar="FILE",
        help="draw the scores and the losses of the examples: .png, .pdf or .svg",
    )
    group.add_argument(
        "--save-state",
        metavar="FOLDER",
        help="save the state after the step as the checkpoint of a new workdir",
    )
    group.add_argument(
        "--python", action="store_true", help="open a Python shell with the step in names"
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    _check(options)
    from clac_jax.replay.devices import prepare_devices
    from clac_jax.replay.history import read_history
    from clac_jax.replay.picture import check_drawable
    from clac_jax.replay.replayer import Replayer, check_new

    def say(line: str) -> None:
        print(shown(line), file=sys.stderr if options.json else sys.stdout, flush=True)

    if options.save_state:
        check_new(local_path(options.save_state, "--save-state"))
    history = read_history(options.run_folder)
    last = options.step or options.last or history.last_step
    if options.figure:
        task = history.config_of(last).task
        check_drawable(local_path(options.figure, "--figure"), task)
    prepare_devices(history, last)
    with tempfile.TemporaryDirectory(prefix="clac_jax_replay_") as scratch:
        replayer = Replayer(history, Path(scratch), say)
        if options.every:
            return _check_every(replayer, options.first or history.first_step, last, options)
        return _show(history, replayer, options)


def _check(options: argparse.Namespace) -> None:
    """Rejects flags that do not belong together.

    Raises:
        UserError: names the flag.
    """
    if not options.every:
        for flag, value in (("from", options.first), ("to", options.last)):
            if value is not None:
                raise UserError(f"--{flag} belongs to --every. Add --every, or leave it out.")
        return
    for flag in ("examples", "figure", "save_state", "python"):
        if getattr(options, flag):
            name = flag.replace("_", "-")
            raise UserError(f"--{name} is about one step. Give --step N instead of --every.")


def _show(history: History, replayer: Replayer, options: argparse.Namespace) -> int:
    from clac_jax.replay.examination import examine
    from clac_jax.replay.picture import draw
    from clac_jax.replay.report import examination_lines, step_lines, to_json
    from clac_jax.replay.shell import names_of, open_shell
    from clac_jax.replay.verdict import judge

    step = options.step
    replayer.go_to(step)
    batch = replayer.take_batch()
    examination = examine(replayer, batch)
    before = replayer.arrays() if options.python else {}
    done = replayer.do(batch)
    verdict = judge(
        done,
        history.digests(step),
        replayer.arrays(),
        history.checkpoints.get(step),
        replayer.lawful,
    )
    if options.json:
        print(json.dumps(to_json(history, done, verdict, examination), indent=1))
    else:
        lines = step_lines(history, done, verdict)
        lines += examination_lines(examination, options.examples)
        print("\n".join(lines), flush=True)
    if options.figure:
        draw(examination, local_path(options.figure, "--figure"))
        print(f"figure    {options.figure}", file=sys.stderr if options.json else sys.stdout)
    if options.save_state:
        folder = replayer.save(local_path(options.save_state, "--save-state"))
        print(f"state     {folder}", file=sys.stderr if options.json else sys.stdout)
    if options.python:
        open_shell(names_of(replayer, batch, before, examination))
    return 0 if verdict.is_equal else EXIT_DIFFERENT


def _check_every(replayer: Replayer, first: int, last: int, options: argparse.Namespace) -> int:
    from clac_jax.replay.every import check_every

    result = check_every(replayer, first, last)
    if options.json:
        print(json.dumps(result.to_json(), indent=1))
    else:
        print("\n".join(result.lines()), flush=True)
    return 0 if result.is_equal else EXIT_DIFFERENT
