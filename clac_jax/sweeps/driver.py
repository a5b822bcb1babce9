"""Runs the trials of a sweep; any number of these programs may do so together, on one storage.

Which trials there are, what they try and how they end does not depend on how many programs there
are, nor on which of them are killed: see `study_view`. A program that is killed is replaced by any
other that runs the same command.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clac_jax.errors import UserError, WorkdirError, counted, one_line, warn
from clac_jax.healing.errors import FaultyMachineError
from clac_jax.supervision.progress import newest_step
from clac_jax.sweeps.database import StorageError, UnreachableStorageError
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.disk import free_checkpoints
from clac_jax.sweeps.opened import folder_of
from clac_jax.sweeps.own_folder import ForeignFolderError, check_folder
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.pruning import Judge
from clac_jax.sweeps.sampling import propose, trials_at_most
from clac_jax.sweeps.storage import (
    LEASE_SECONDS,
    Lease,
    LostLeaseError,
    Observer,
    State,
    Storage,
    TrialRecord,
    elapsed,
)
from clac_jax.sweeps.study_view import BEFORE, PRUNER_STATE, first_end
from clac_jax.sweeps.trial_run import Outcome, RunningTrial, TrialEnd, TrialSpec

POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0  # between two looks at the storage
BEAT_SECONDS = 5.0
# Of the system, of a quota, and of the check of the space at the start of a run.
_OUT_OF_SPACE = ("No space left on device", "Disk quota exceeded", "Free some space there")
FAILURES = 4  # in a row, after which a program starts no more trials


class FailedSweepError(UserError):
    """Trials fail one after the other."""


@dataclass(frozen=True)
class Program:
    """The way in which this program runs trials.

    Attributes:
        workdir: the folder of the sweep.
        slots: environment of each trial that it runs at the same time.
        command: program and first arguments of a trial; (): `clac-jax train`.
        say: shows a line on the progress.
        after: called with the definition and all trials when one has ended.
        config: name or path of the config of the trials; "": that of the definition.
    """

    workdir: Path
    slots: Sequence[Mapping[str, str]] = ({},)
    command: tuple[str, ...] = ()
    say: Callable[[str], None] = print
    after: Callable[[Definition, Sequence[TrialRecord]], None] = lambda definition, trials: None
    config: str = ""


@dataclass
class _Held:
    """A trial that this program runs."""

    lease: Lease
    running: RunningTrial
    judge: Judge
    environment: Mapping[str, str]
    seconds: float  # of earlier programs
    began: float = field(default_factory=elapsed)
    renewed: float = field(default_factory=elapsed)
    end: TrialEnd | None = None  # not stored yet


class Driver:
    """Runs trials until the sweep is finished, or this program is asked to stop.

    Attributes:
        failures: trials that may fail one after the other before this program starts no more.
    """

    failures: float = FAILURES

    def __init__(self, definition: Definition, storage: Storage, program: Program):
        """Starts nothing yet; the definition is complete."""
        self._definition, self._storage, self._program = definition, storage, program
        self._limit = trials_at_most(definition)
        self._free = list(program.slots)
        self._held: list[_Held] = []
        self._observer = Observer()
        self._holder = name_of(os.getpid())
        self._looked = -math.inf
        self._ended: set[int] | None = None  # trials that had ended at the last look
        self._failures = 0
        self._is_away = False
        self._problem: UserError | None = None  # raised once the trials are saved

    def run(self, stop: threading.Event) -> bool:
        """Runs trials; returns whether the sweep is finished.

        Args:
            stop: set to save the trials and return.

        Raises:
            FailedSweepError: several trials in a row have failed.
            FaultyMachineError: the machine computes wrongly.
            ForeignFolderError: the folder of a trial holds one of a different sweep.
            StorageError, WorkdirError: what is stored cannot be read or written.
        """
        stops, finished = self._storage.stops(), False
        try:
            while not (finished or stop.is_set()) or self._held:
                for held in list(self._held):
                    if stop.is_set():
                        held.running.ask_to_stop()
                    self._advance(held)
                if elapsed() - self._looked >= LOOK_SECONDS and not stop.is_set():
                    with self._tolerated():
                        finished = self._look()
                        if self._storage.stops() != stops:
                            self._program.say("`clac-jax sweep stop`: the trials are being saved.")
                            stop.set()
                if self._problem is not None:
                    stop.set()
                if not finished or self._held:
                    time.sleep(POLL_SECONDS)
        finally:
            for held in self._held:
                held.running.close()
            with contextlib.suppress(StorageError):  # their holder, this process, ends anyway
                for held in self._held:
                    with contextlib.suppress(LostLeaseError):
                        self._storage.release(held.lease, self._progress(held))
        if self._problem is not None:
            raise self._problem
        return finished

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        """Context in which the database may be out of reach for a while."""
        try:
            yield
            self._is_away = False
        except UnreachableStorageError as error:
            if not self._is_away:
                warn(f"{error} The trials continue, and it is tried again.")
            self._is_away = True
            time.sleep(POLL_SECONDS)

    def _look(self) -> bool:
        """Reads the storage, adds trials and takes them; returns whether the sweep is finished."""
        self._looked = elapsed()
        trials = self._storage.trials()
        self._note_ends(trials)
        for trial in trials:
            self._take(trial, trials)
        while self._problem is None and self._free and self._may_add(trials):
            number = len(trials)
            self._storage.add(self._propose(trials, number))
            trials = self._storage.trials()
            self._take(trials[number], trials)
        return all(trial.state.has_ended for trial in trials) and not self._may_add(trials)

    def _propose(self, trials: Sequence[TrialRecord], number: int) -> TrialRecord:
        """The next trial."""
        return propose(self._definition, trials, number)

    def _may_add(self, trials: Sequence[TrialRecord]) -> bool:
        """Whether the next trial can be known, and the budget has it."""
        number, hours = len(trials), self._definition.budget.get("hours")
        if self._limit is not None and number >= self._limit:
            return False
        if hours is not None and sum(map(seconds_of, trials)) >= hours * 3600:
            return False
        needed = trials[: max(0, number - self._definition.parallel + 1)]
        return all(first_end(trial).state.has_ended for trial in needed)

    def _take(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> None:
        if self._problem is not None or not self._free or not self._observer.is_free(trial):
            return
        if not self._is_here(trial, trials):
            return
        folder, overrides = folder_of(self._program.workdir, trial), self._overrides(trial)
        try:
            check_folder(folder, overrides)
        except ForeignFolderError as error:
            self._problem = error
            return
        lease = self._storage.claim(trial, self._holder)
        if lease is None:
            return
        definition, trials = self._definition, self._storage.trials()
        if BEFORE in trial.extra:
            definition = definition.without_pruner()
        self._prepare(trial)
        judge = Judge(definition, trials, trial.number, int(overrides.get("max_epochs", 1 << 30)))
        environment, config = self._free.pop(0), self._program.config or definition.config
        spec = TrialSpec(config, folder, overrides, environment, self._program.command)
        running = RunningTrial(spec, judge)
        if trial.asked == "prune":
            running.prune()
        held = _Held(lease, running, judge, environment, seconds_of(trial))
        self._held.append(held)
        verb = "continues" if (newest_step(folder) or 0) > 0 else "starts"
        self._program.say(f"trial {trial.number:<4} {verb}: {described(trial.params)}")

    def _is_here(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> bool:
        """Whether this machine has what a trial starts from."""
        del trial, trials
        return True

    def _overrides(self, trial: TrialRecord) -> dict[str, Any]:
        """The keys of the config that a trial sets."""
        return {**self._definition.overrides, **trial.params}

    def _prepare(self, trial: TrialRecord) -> None:
        """Does what is due before a trial that this program has taken is run."""

    def _value(self, number: int, values: Sequence[tuple[int, int, float]]) -> float | None:
        """The value of a trial with these validations so far."""
        del number
        return self._definition.best([value for _, _, value in values])

    def _free_disk(self, trials: Sequence[TrialRecord]) -> Iterator[str]:
        """Removes checkpoints that are not to be kept; yields a line for each."""
        return free_checkpoints(self._definition, trials, self._program.workdir)

    def _advance(self, held: _Held) -> None:
        try:
            # A program that was suspended must not start a trial again that is another's by now.
            if elapsed() - held.renewed >= BEAT_SECONDS and held.end is None:
                self._renew(held)
            held.end = held.end or _advanced(held.running)
            if held.end is not None:
                with self._tolerated():
                    self._store_end(held, held.end)
        except LostLeaseError as error:
            warn(str(error))
            held.running.close()
            self._drop(held)

    def _renew(self, held: _Held) -> None:
        with self._tolerated():
            if self._storage.renew(held.lease, self._progress(held)) == "prune":
                held.running.prune()
            held.renewed = elapsed()
        if self._is_away and elapsed() - held.renewed > LEASE_SECONDS:
            held.renewed = elapsed() - BEAT_SECONDS + LOOK_SECONDS  # do not ask too often

    def _progress(self, held: _Held) -> dict[str, Any]:
        values = [value for value in held.judge.values if not math.isnan(value[2])]
        return {
            "value": self._value(held.lease.number, values),
            "values": values,
            "seconds": round(held.seconds + elapsed() - held.began, 1),
        }

    def _store_end(self, held: _Held, end: TrialEnd) -> None:
        """Stores the end of a trial; called again if the database is out of reach."""
        number, progress = held.lease.number, self._progress(held)
        is_full = end.outcome is Outcome.FAILED and _is_out_of_space(end)
        if is_full or end.outcome in (Outcome.INTERRUPTED, Outcome.FAULTY):
            self._storage.release(held.lease, progress)
            self._program.say(f"trial {number:<4} saved, and can be continued")
        else:
            state = _STATES[end.outcome]
            if state is State.COMPLETE and progress["value"] is None:
                state = State.FAILED
            note = _reason(end) if state is State.FAILED else ""
            if state is State.PRUNED and not held.judge.has_stopped:
                note = "on request"
            result = {
                **progress,
                "code": end.code,
                "note": note,
                "lines": list(end.lines) if state is State.FAILED else [],
                "host": self._holder.host,
                PRUNER_STATE: held.judge.state(),
            }
            self._storage.finish(held.lease, state, result)
            self._looked = -math.inf
            is_early = state is State.PRUNED and progress["values"]
            last = f" in epoch {progress['values'][-1][1]}" if is_early else ""
            value = (
                ""
                if progress["value"] is None
                else (f", {self._definition.monitor} {progress['value']:.5g}")
            )
            self._program.say(f"trial {number:<4} {state.value}{last}{value}{note and f': {note}'}")
        self._drop(held)
        if is_full:
            self._problem = WorkdirError(
                f"Trial {number} has no space left: {_reason(end).rstrip('.')}. Free some space; "
                "the same command continues the sweep."
            )
        if end.outcome is Outcome.FAULTY:
            self._problem = FaultyMachineError(
                f"This machine does not repeat its results, as trial {number} has shown twice. "
                "Have it tested; the same command on a different machine continues the sweep."
            )

    def _note_ends(self, trials: Sequence[TrialRecord]) -> None:
        """Handles trials that have ended since the last look, here or elsewhere."""
        ended = {trial.number for trial in trials if trial.state.has_ended}
        new = ended - (ended if self._ended is None else self._ended)
        self._ended = ended
        for number in sorted(new):
            failed = trials[number].state is State.FAILED
            self._failures = self._failures + 1 if failed else 0
        if new:
            for line in self._free_disk(trials):
                self._program.say(line)
            self._program.after(self._definition, trials)
        if self._failures >= self.failures:
            last = trials[max(n for n in ended if trials[n].state is State.FAILED)]
            self._problem = FailedSweepError(
                f"The last {counted(self._failures, 'trial')} have failed; trial {last.number}: "
                f"{str(last.result.get('note', '')).rstrip('.')}. Correct that and run the same "
                "command again; `clac-jax sweep revive` lets the failed trials run again."
            )

    def _drop(self, held: _Held) -> None:
        self._held.remove(held)
        self._free.append(held.environment)


_STATES = {
    Outcome.COMPLETE: State.COMPLETE,
    Outcome.PRUNED: State.PRUNED,
    Outcome.FAILED: State.FAILED,
}


def _advanced(running: RunningTrial) -> TrialEnd | None:
    """Advances a trial; one whose files cannot be read or written has failed, and only that one."""
    try:
        return running.advance()
    except WorkdirError as error:
        running.close()
        return TrialEnd(Outcome.FAILED, (), None, (f"error: {error}",), 0)


def seconds_of(trial: TrialRecord) -> float:
    """The time for which programs have held a trial, as they have reported it, seconds."""
    return float((trial.result or trial.progress).get("seconds") or 0.0)


def described(params: Mapping[str, Any]) -> str:
    """The values that a trial tries, on one line."""
    return ", ".join(
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in params.items()
    )


def _is_out_of_space(end: TrialEnd) -> bool:
    """Whether a trial has ended for lack of space; its last lines may be those of earlier tries."""
    lines = [*end.lines[-1:], *[line for line in end.lines if line.startswith("error: ")][-1:]]
    return any(words in line for words in _OUT_OF_SPACE for line in lines)


def _reason(end: TrialEnd) -> str:
    """Why a trial has failed, from its last lines."""
    if end.code == 0:
        return "no validation has a finite value"
    lines = [line for line in end.lines if line.startswith("error: ")] or list(end.lines)
    what = one_line(lines[-1].removeprefix("error: "), 300) if lines else "no output"
    return what if end.code is None else f"exit code {end.code}: {what}"
