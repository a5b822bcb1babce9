"""A trial: the ordinary program in a folder of its own, as a child of this one.

It is started again after it was killed, pre-empted or hung, as by `clac-jax run`. Its validation
rows are shown to a function that may end it early. If this program is killed, the child notices and
saves and stops; the next program that runs the same trial waits for that.
"""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import json
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.distributed.workdir import LOCK_FILE
from clac_jax.errors import EXIT_FAULTY, EXIT_USER_ERROR, WorkdirError
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.reporting.rows import Row
from clac_jax.supervision.child import SignsOfLife, program, start_supervised
from clac_jax.supervision.progress import newest_step
from clac_jax.sweeps.process_name import ProcessName, name_of
from clac_jax.sweeps.rows import ValidationRows

OUTPUT_FILE = "output.txt"
CHILD_FILE = "trial.json"
MAX_OUTPUT = 4 << 20  # bytes; at the next start, a longer file makes way for a new one
LAST_LINES = 30
IN_USE = " is in use by "
"""In the error of a run whose folder is held by a different one."""
POLL_SECONDS = 0.2
PAUSE_SECONDS = 2.0  # before a restart; doubled for each crash in a row without progress
CRASHES = 3  # in a row, without a newer checkpoint
KILLS = 10  # the same for tries that a signal has ended: most often, the machine was taken away
FAULTS = 2
ORPHAN_SECONDS = 180.0  # for a child of a program that was killed, to save and stop


class Verdict(enum.Enum):
    """The answer of `watch` to a validation row."""

    CONTINUE = "continue"
    STOP = "stop"


class Outcome(enum.Enum):
    """The way in which a trial ended."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    """`watch` has said so."""
    INTERRUPTED = "interrupted"
    """This program was asked to stop; the trial is saved and can be run again."""
    FAILED = "failed"
    """Something must be corrected, or it crashed again and again."""
    FAULTY = "faulty"
    """The machine computes wrongly; the trial can be run on a different one."""


@dataclass(frozen=True)
class TrialSpec:
    """One trial.

    Attributes:
        config: name or path of the config, as for `--config`.
        workdir: its folder.
        overrides: dotted key of the config -> value.
        environment: variables that it gets besides those of this program, such as its devices.
        command: program and first arguments; (): `clac-jax train`.
    """

    config: str
    workdir: Path
    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    command: tuple[str, ...] = ()

    def full_command(self) -> list[str]:
        """The command line of the child."""
        keys = [f"--config.{name}={flag_text(value)}" for name, value in self.overrides.items()]
        start = self.command or (*program(), "train")
        return [*start, f"--config={self.config}", f"--workdir={self.workdir}", *keys]


@dataclass(frozen=True)
class TrialEnd:
    """The end of a trial.

    Attributes:
        outcome: how it ended.
        rows: its validation rows, by step; if it was pruned, up to the one that decided that.
        code: exit code of its last try, 128 + n if signal n ended it; None if there was none.
        lines: the last lines of its output, oldest first.
        tries: number of times that it was started by this program.
    """

    outcome: Outcome
    rows: tuple[Row, ...]
    code: int | None
    lines: tuple[str, ...]
    tries: int


def flag_text(value: Any) -> str:
    """A value of a config key as the text of a flag."""
    if isinstance(value, list):
        value = tuple(value)
    return value if isinstance(value, str) else repr(value)


def run_trial(spec: TrialSpec, watch: Callable[[Row], Verdict], stop: threading.Event) -> TrialEnd:
    """Runs a trial to its end.

    Args:
        spec: the trial.
        watch: called with each validation row, by step and each only once. Rows of earlier starts
            come first, so that the same function sees the same rows however often the trial or
            this program was killed.
        stop: set to save and stop the trial.

    Returns:
        Its end. A trial that `watch` has stopped is pruned, even if it was complete by then.
    """
    running = RunningTrial(spec, watch)
    try:
        while (end := running.advance()) is None:
            if stop.wait(POLL_SECONDS):
                running.ask_to_stop()
                time.sleep(POLL_SECONDS)
        return end
    finally:
        running.close()


class RunningTrial:
    """A trial in progress; see `run_trial`. One thread can advance many."""

    def __init__(self, spec: TrialSpec, watch: Callable[[Row], Verdict]):
        """Starts nothing yet: that is done by `advance`.

        Raises:
            WorkdirError: the folder of the trial cannot be made.
        """
        self.spec = spec
        self._watch = watch
        self._tail = ValidationRows(spec.workdir / "metrics.jsonl")
        self._rows: list[Row] = []
        self._asked: Outcome | None = None  # why it was asked to stop
        self._child: _Child | None = None
        self._not_before = 0.0  # monotonic clock, seconds
        self._tries = self._idle = self._faults = 0
        self._code: int | None = None
        self._orphan = _Orphan(spec.workdir)
        try:
            spec.workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"Cannot make {spec.workdir}: {explain(error)}") from error
        self._farthest = newest_step(spec.workdir) or 0

    def advance(self) -> TrialEnd | None:
        """Does what is due now, without waiting; returns the end of the trial once it has ended.

        Raises:
            WorkdirError: the files of the trial cannot be read or written.
        """
        if self._child is None:
            self._read_rows()  # of earlier starts: the verdict may be known already
            if self._asked is Outcome.INTERRUPTED:
                return self._end(Outcome.INTERRUPTED)
            if self._orphan.is_in_use():
                return None
            if self._asked is Outcome.PRUNED:
                return self._end(Outcome.PRUNED)
            if time.monotonic() >= self._not_before:
                self._tries += 1
                self._child = _Child(self.spec)
            return None
        code = self._child.poll()
        self._read_rows()  # after `poll`, so that all rows of a child that has ended are read
        if code is None:
            return None
        self._child.close()
        self._child = None
        self._code = code
        return self._after(code)

    def ask_to_stop(self) -> None:
        """Asks the trial to save and stop."""
        self._ask(Outcome.INTERRUPTED)

    def prune(self) -> None:
        """Asks the trial to save and stop, as if `watch` had said so."""
        self._ask(Outcome.PRUNED)

    def close(self) -> None:
        """Kills a child that still runs; its checkpoints are intact."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _ask(self, why: Outcome) -> None:
        if self._asked is None:
            self._asked = why
            if self._child is not None:
                self._child.send(signal.SIGTERM)

    def _read_rows(self) -> None:
        if self._asked is Outcome.PRUNED:
            return
        for row in self._tail.new():
            self._rows.append(row)
            if self._watch(row) is Verdict.STOP:
                self._asked = None  # a verdict is the same whenever it is noticed
                self._ask(Outcome.PRUNED)
                return

    def _after(self, code: int) -> TrialEnd | None:
        """The end of the trial after the end of a try, or None if it is started again."""
        if code == EXIT_USER_ERROR and self._asked is None and self._was_in_use():
            return None  # the child of a program that was killed was faster
        step = newest_step(self.spec.workdir) or 0
        self._idle = 0 if step > self._farthest else self._idle + 1
        self._farthest = max(step, self._farthest)
        self._faults += code == EXIT_FAULTY
        if self._asked is Outcome.PRUNED:
            return self._end(Outcome.PRUNED)
        if code == 0:
            return self._end(Outcome.COMPLETE)
        if code == EXIT_USER_ERROR:
            return self._end(Outcome.FAILED)
        if self._asked is not None:
            return self._end(self._asked)
        if self._faults == FAULTS:
            return self._end(Outcome.FAULTY)
        was_killed = code > 128 or code in (EXIT_PREEMPTED, EXIT_FAULTY)
        if self._idle >= (KILLS if was_killed else CRASHES):
            return self._end(Outcome.FAILED)
        if self._idle:
            doubled = 1 if was_killed else 2 ** (self._idle - 1)
            self._not_before = time.monotonic() + PAUSE_SECONDS * doubled
        return None

    def _was_in_use(self) -> bool:
        """Whether the last try found the folder in use, even if it is not any more."""
        said = last_lines(self.spec.workdir, 5)
        return self._orphan.is_in_use() or any(IN_USE in line for line in said)

    def _end(self, outcome: Outcome) -> TrialEnd:
        lines = last_lines(self.spec.workdir)
        return TrialEnd(outcome, tuple(self._rows), self._code, lines, self._tries)


class _Child:
    """One start of a trial."""

    def __init__(self, spec: TrialSpec):
        folder = spec.workdir
        try:
            _begin_again_if_long(folder / OUTPUT_FILE)
            with open(folder / OUTPUT_FILE, "ab") as output:
                self._process, self._alive = start_supervised(
                    spec.full_command(), spec.environment, output
                )
        except OSError as error:
            raise WorkdirError(f"Cannot start the trial {folder}: {explain(error)}") from error
        self._life = SignsOfLife(self._process)
        child = dataclasses.asdict(name_of(self._process.pid))
        content = {"command": spec.full_command(), "child": child}
        write_atomically(folder / CHILD_FILE, json.dumps(content, indent=1) + "\n")

    def poll(self) -> int | None:
        """Its exit code; None while it runs. It is killed if it gives no sign of life."""
        if select.select([self._alive], [], [], 0)[0]:
            self._life.read(self._alive.fileno())
        self._life.check()
        code = self._process.poll()
        return 128 - code if code is not None and code < 0 else code

    def send(self, number: signal.Signals) -> None:
        """Sends a signal; nothing happens if it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()
        self.close()

    def close(self) -> None:
        """Closes what belongs to it; it has ended."""
        self._alive.close()


class _Orphan:
    """The child of a program that was killed, or of one on another machine, in the same folder."""

    def __init__(self, workdir: Path):
        self._workdir = workdir
        self._asked: ProcessName | None = None
        self._last = 0.0  # when it must have ended; monotonic clock, seconds

    def is_in_use(self) -> bool:
        """Whether a run holds the folder, or is about to; it is asked to save and stop."""
        child = _recorded_child(self._workdir)
        if child is not None and child.is_alive():
            if child != self._asked:  # a second signal would end it without a save
                self._asked, self._last = child, time.monotonic() + ORPHAN_SECONDS
                child.send(signal.SIGTERM)
            elif time.monotonic() > self._last:
                child.send(signal.SIGKILL)
            return True
        try:
            with open(self._workdir / LOCK_FILE, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # there is none, or the file system has no locks
            pass
        return False


def last_lines(workdir: Path, number: int = LAST_LINES) -> tuple[str, ...]:
    """The last lines of a trial's output, oldest first."""
    try:
        with open(workdir / OUTPUT_FILE, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - (1 << 16)))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ()
    return tuple(line.rstrip() for line in lines if line.strip())[-number:]


def _recorded_child(workdir: Path) -> ProcessName | None:
    try:
        content = json.loads((workdir / CHILD_FILE).read_text(encoding="utf-8"))
        return ProcessName(**content["child"])
    except (OSError, ValueError, KeyError, TypeError):  # none yet, or a disk that lost it
        return None


def _begin_again_if_long(path: Path) -> None:
    if path.exists() and path.stat().st_size > MAX_OUTPUT:
        os.replace(path, path.with_name(f"earlier_{path.name}"))
