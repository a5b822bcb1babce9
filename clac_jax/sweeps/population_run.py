"""Trains a population; several programs may do so together, on one storage.

Each generation of each member is a trial: a run in a folder of its own, which starts from the
parent's last checkpoint with everything in it and stops for now at the end of the generation. So
what a member starts from never changes under it. A program that is killed is replaced by any other
that runs the same command.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clac_jax.config.key import declared
from clac_jax.config.saving import RESTORE_PARTS, Restore
from clac_jax.errors import UserError, counted, one_line, warn
from clac_jax.files.atomic import write_atomically
from clac_jax.reporting.rows import Row
from clac_jax.sweeps.database import UnreachableStorageError
from clac_jax.sweeps.page import write_page
from clac_jax.sweeps.population import (
    Done,
    Plan,
    Population,
    active,
    first_plans,
    needed,
    next_plans,
)
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.storage import (
    Lease,
    LostLeaseError,
    Observer,
    State,
    Storage,
    TrialRecord,
)
from clac_jax.sweeps.stored_view import LINEAGE, trial_views
from clac_jax.sweeps.trial_run import Outcome, RunningTrial, TrialEnd, TrialSpec, Verdict
from clac_jax.sweeps.view import SweepView

LINEAGE_FILE = "lineage.json"
POLL_SECONDS = 0.2
LOOK_SECONDS = 1.0  # between two looks at the storage
BEAT_SECONDS = 10.0
_REMOVED = "checkpoints.removed"


class FaultyDeviceError(UserError):
    """The machine does not repeat its results."""


@dataclass(frozen=True)
class PopulationTask:
    """What to train, and where.

    Attributes:
        population: the settings.
        config: name or path of the config.
        overrides: dotted key -> value in all trials.
        monitor: the measure that is compared.
        workdir: the folder of the sweep.
        keep_checkpoints: number of the best trials that keep their checkpoints; 0: all keep them.
        name: name of the sweep.
        command: program and first arguments of a trial; (): `clac-jax train`.
    """

    population: Population
    config: str
    overrides: Mapping[str, Any]
    monitor: str
    workdir: Path
    keep_checkpoints: int = 3
    name: str = "population"
    command: tuple[str, ...] = ()

    def folder(self, generation: int, member: int) -> Path:
        """The folder of one generation of one member."""
        width = max(2, len(str(self.population.members - 1)))
        return self.workdir / "members" / f"{member:0{width}}" / f"gen_{generation:02}"

    def spec(self, plan: Plan, environment: Mapping[str, str]) -> TrialSpec:
        """The run that carries out a plan.

        Args:
            plan: the plan.
            environment: variables that it gets, such as its devices.
        """
        population = self.population
        own: dict[str, Any] = {
            "max_epochs": population.generations * population.epochs,
            **self.overrides,
            **active(population.space, plan.values),
            "stop_at_epoch": (plan.generation + 1) * population.epochs,
            "early_stopping_patience": 0,
            "checkpoint.save_last": True,  # the next generation starts from it
        }
        if plan.parent is not None:
            parent = self.folder(plan.generation - 1, plan.parent)
            own |= {"resume_from": f"{parent.resolve()}@last", "restore.parts": RESTORE_PARTS}
            # What the config restores is for generation 0.
            keys = declared(Restore).keys() & {"rules", "sources"}
            own |= {f"restore.{name}": () for name in sorted(keys)}
        folder = self.folder(plan.generation, plan.member)
        return TrialSpec(self.config, folder, own, environment, self.command)

    def view(self, records: Sequence[TrialRecord]) -> SweepView:
        """What is shown of the population."""
        plans = {record.number: plan_of(record) for record in records}
        folders = {k: self.folder(plan.generation, plan.member) for k, plan in plans.items()}
        shown = trial_views(records, folders, self.workdir)
        population = self.population
        facts = (
            ("Seed", str(population.seed)),
            (
                "Plan",
                f"{counted(population.members, 'member')}, "
                f"{counted(population.generations, 'generation')} of "
                f"{counted(population.epochs, 'epoch')}; the worst {population.num_exploiting} "
                "exploit the best",
            ),
        )
        return SweepView(self.name, self.monitor, population.mode, shown, population.space, facts)


def plan_of(record: TrialRecord) -> Plan:
    """The plan that a trial of a population carries out."""
    return Plan.from_json(record.extra[LINEAGE])


@dataclass
class _Held:
    """A trial that this program runs."""

    lease: Lease
    plan: Plan
    running: RunningTrial
    environment: Mapping[str, str]
    values: list[tuple[int, int, float | None]] = field(default_factory=list)
    renewed: float = field(default_factory=time.monotonic)
    end: TrialEnd | None = None  # not stored yet


class PopulationDriver:
    """Runs trials of a population until it is trained, or this program is asked to stop."""

    def __init__(
        self,
        task: PopulationTask,
        storage: Storage,
        slots: Sequence[Mapping[str, str]] = ({},),
        say: Callable[[str], None] = print,
    ):
        """Starts nothing yet.

        Args:
            task: what to train.
            storage: of the sweep.
            slots: environments of the trials that this program runs at the same time, one each.
            say: shows a line on the progress.
        """
        self._task, self._storage, self._say = task, storage, say
        self._free = list(slots)
        self._held: list[_Held] = []
        self._observer = Observer()
        self._holder = name_of(os.getpid())
        self._looked = -math.inf
        self._num_ended = -1
        self._is_away = False

    def run(self, stop: threading.Event) -> list[TrialRecord]:
        """Trains; returns all trials when the population is trained or `stop` is set.

        Raises:
            PopulationError: no member of a generation has a result.
            FaultyDeviceError: the machine computes wrongly.
            StorageError, WorkdirError: what is stored cannot be read or written.
        """
        stops = self._storage.stops()
        try:
            while True:
                for held in list(self._held):
                    if stop.is_set():
                        held.running.ask_to_stop()
                    self._advance(held)
                if stop.is_set() and not self._held:
                    return self._storage.trials()
                if time.monotonic() - self._looked >= LOOK_SECONDS and not stop.is_set():
                    with self._tolerated():
                        records = self._look()
                        if self._is_trained(records):
                            return records
                        if self._storage.stops() != stops:
                            stop.set()
                time.sleep(POLL_SECONDS)
        finally:
            for held in self._held:
                held.running.close()

    @contextlib.contextmanager
    def _tolerated(self) -> Any:
        """Context in which the storage may be away for a while."""
        try:
            yield
            self._is_away = False
        except UnreachableStorageError as error:
            if not self._is_away:
                warn(f"{error} The trials continue, and it is tried again.")
            self._is_away = True

    def _is_trained(self, records: Sequence[TrialRecord]) -> bool:
        population = self._task.population
        count = population.generations * population.members
        return len(records) == count and all(record.state.has_ended for record in records)

    def _look(self) -> list[TrialRecord]:
        """Reads the storage; plans the next generation, and takes trials, if there are any."""
        self._looked = time.monotonic()
        records = self._storage.trials()
        if self._plan(records):
            records = self._storage.trials()
        num_ended = sum(record.state.has_ended for record in records)
        if num_ended != self._num_ended:
            self._num_ended = num_ended
            self._remove_checkpoints(records)
            write_page(self._task.view(records), self._task.workdir)
        for record in records:
            if not (self._free and self._observer.is_free(record)):
                continue
            if lease := self._storage.claim(record, self._holder):
                self._start(lease, plan_of(record))
        return records

    def _plan(self, records: Sequence[TrialRecord]) -> bool:
        """Stores the trials of the next generation if they can be known by now."""
        population = self._task.population
        generation, there = divmod(len(records), population.members)
        before = records[(generation - 1) * population.members : generation * population.members]
        if generation == population.generations:
            return False
        if not all(record.state.has_ended for record in before):
            return False
        if generation:
            plans = next_plans(population, [Done(plan_of(r), r.value) for r in before])
        else:
            plans = first_plans(population)
        added = False
        for plan in plans[there:]:  # some are there if a program was killed while it stored them
            record = TrialRecord(
                population.number(generation, plan.member),
                active(population.space, plan.values),
                {LINEAGE: plan.to_json()},
            )
            if self._storage.add(record) and plan.exploits:
                self._say(_told(plan))
            added = True
        return added

    def _start(self, lease: Lease, plan: Plan) -> None:
        task = self._task
        environment = self._free.pop(0)
        spec = task.spec(plan, environment)
        values: list[tuple[int, int, float | None]] = []

        def watch(row: Row) -> Verdict:
            value = float(row.get(task.monitor, math.nan))
            finite = value if math.isfinite(value) else None
            values.append((int(row["step"]), int(row["epoch"]), finite))
            return Verdict.CONTINUE

        running = RunningTrial(spec, watch)
        lineage = plan.to_json()
        if plan.parent is not None:
            parent = task.folder(plan.generation - 1, plan.parent)
            lineage["starts_from"] = str(parent.relative_to(task.workdir))
        write_atomically(spec.workdir / LINEAGE_FILE, json.dumps(lineage, indent=1) + "\n")
        self._held.append(_Held(lease, plan, running, environment, values))

    def _advance(self, held: _Held) -> None:
        end = held.end = held.end or held.running.advance()
        progress = {"values": _finite(held.values)}
        try:
            if end is not None:
                self._end(held, end)
            elif time.monotonic() - held.renewed >= BEAT_SECONDS:
                with self._tolerated():
                    self._storage.renew(held.lease, progress)
                held.renewed = time.monotonic()
        except LostLeaseError as error:
            warn(str(error))
            held.running.close()
            self._drop(held)

    def _end(self, held: _Held, end: TrialEnd) -> None:
        """Stores the end of a trial; tried again if the storage is away."""
        plan, values = held.plan, _finite(held.values)
        with self._tolerated():
            if end.outcome in (Outcome.INTERRUPTED, Outcome.FAULTY):
                self._storage.release(held.lease, {"values": values})
            else:
                value = self._value(held) if end.outcome is Outcome.COMPLETE else None
                note = "" if value is not None else _reason(end)
                result = {"value": value, "values": values, "code": end.code, "note": note}
                state = State.COMPLETE if value is not None else State.FAILED
                self._storage.finish(held.lease, state, result)
                reached = note if value is None else f"{self._task.monitor} {value:.5g}"
                self._say(f"generation {plan.generation}, member {plan.member}: {reached}")
                self._looked = -math.inf
            self._drop(held)
        if end.outcome is Outcome.FAULTY:
            raise FaultyDeviceError(
                f"This machine does not repeat its results, by {held.running.spec.workdir}. Run "
                "the same command on another one: the population continues there."
            )

    def _value(self, held: _Held) -> float | None:
        """The measure at the end of the generation; None if it is not finite, or there is none."""
        last = (held.plan.generation + 1) * self._task.population.epochs - 1
        return next((value for _, epoch, value in held.values if epoch == last), None)

    def _drop(self, held: _Held) -> None:
        self._held.remove(held)
        self._free.append(held.environment)

    def _remove_checkpoints(self, records: Sequence[TrialRecord]) -> None:
        """Removes the checkpoints that no member can start from any more, except of the best."""
        task = self._task
        if not task.keep_checkpoints:
            return
        plans = [plan_of(record) for record in records]
        ended = [record.state.has_ended for record in records]
        best = [each.number for each in task.view(records).best_first()[: task.keep_checkpoints]]
        kept = {*best, *needed(task.population, plans, ended)}
        for record, plan in zip(records, plans, strict=True):
            if record.state.has_ended and record.number not in kept:
                remove_checkpoints(task.folder(plan.generation, plan.member))


def remove_checkpoints(folder: Path) -> None:
    """Removes the checkpoints of a run, also if a kill interrupts it; its rows and files stay."""
    removed = folder / _REMOVED
    shutil.rmtree(removed, ignore_errors=True)  # what a kill has left
    with contextlib.suppress(OSError):  # it is gone, or another program removes it
        os.rename(folder / "checkpoints", removed)
        shutil.rmtree(removed, ignore_errors=True)


def _finite(values: Sequence[tuple[int, int, float | None]]) -> list[tuple[int, int, float]]:
    return [(step, epoch, value) for step, epoch, value in values if value is not None]


def _reason(end: TrialEnd) -> str:
    lines = [line for line in end.lines if line.startswith("error: ")] or list(end.lines)
    what = one_line(lines[-1].removeprefix("error: "), 300) if lines else "no output"
    return what if end.code else "its last validation has no finite value"


def _told(plan: Plan) -> str:
    changes = ", ".join(
        f"{name} {_short(a)} -> {_short(b)}" for name, (a, b) in plan.changed.items()
    )
    return (
        f"generation {plan.generation}, member {plan.member}: exploits member {plan.parent} "
        f"({plan.why})" + (f"; {changes}" if changes else "")
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
