"""Trains a population; several programs may do so together, on one storage.

Each generation of each member is a trial: a run in a folder of its own, which starts from the
parent's last checkpoint with everything in it and stops for now at the end of the generation. So
what a member starts from never changes under it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from clac_jax.config.key import declared
from clac_jax.config.saving import RESTORE_PARTS, Restore
from clac_jax.errors import WorkdirError
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.supervision.progress import newest_step
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.disk import ranked, remove_checkpoints
from clac_jax.sweeps.driver import Driver, Program
from clac_jax.sweeps.opened import FOLDER, LINEAGE, folder_of
from clac_jax.sweeps.population import (
    Done,
    Plan,
    Population,
    active,
    first_plans,
    needed,
    next_plans,
)
from clac_jax.sweeps.population_settings import population_of
from clac_jax.sweeps.storage import State, Storage, TrialRecord
from clac_jax.sweeps.study_view import first_end

LINEAGE_FILE = "lineage.json"


def plan_of(trial: TrialRecord) -> Plan:
    """The plan that a trial of a population carries out."""
    return Plan.from_json(trial.extra[LINEAGE])


def trial_of(population: Population, plan: Plan) -> TrialRecord:
    """The trial that carries out a plan."""
    return TrialRecord(
        population.number(plan.generation, plan.member),
        active(population.space, plan.values),
        {LINEAGE: plan.to_json(), FOLDER: path_of(plan.generation, plan.member)},
    )


def path_of(generation: int, member: int) -> str:
    """The folder of a generation of a member, within that of the sweep."""
    return f"members/{member:02}/gen_{generation:02}"


def overrides_of(
    definition: Definition, population: Population, plan: Plan, parent: Path | None
) -> dict[str, Any]:
    """The keys of the config of one generation of a member.

    Args:
        definition: the sweep.
        population: its settings.
        plan: what the member does.
        parent: folder of the run that it starts from; None in the first generation.
    """
    keys: dict[str, Any] = {
        "max_epochs": population.epochs_in_all,
        **definition.overrides,
        **active(population.space, plan.values),
        "stop_at_epoch": (plan.generation + 1) * population.epochs,
        "early_stopping_patience": 0,
        "checkpoint.save_last": True,  # the next generation starts from it
    }
    if parent is not None:
        keys |= {"resume_from": f"{parent.resolve()}@last", "restore.parts": RESTORE_PARTS}
        # What the config restores otherwise is for the first generation.
        others = declared(Restore).keys() & {"rules", "sources"}
        keys |= {f"restore.{name}": () for name in sorted(others)}
    return keys


class PopulationDriver(Driver):
    """A driver of a population: which trials there are, and which checkpoints are kept."""

    failures = float("inf")  # a member that fails exploits a better one

    def __init__(self, definition: Definition, storage: Storage, program: Program):
        """See `Driver`."""
        super().__init__(definition, storage, program)
        self._population = population_of(definition)
        self._left: set[int] = set()  # trials that were said to be left to another machine

    def _may_add(self, trials: Sequence[TrialRecord]) -> bool:
        """Whether all of the generation before the next trial's have ended."""
        generation, _ = divmod(len(trials), self._population.members)
        before = trials[: generation * self._population.members]
        ended = all(first_end(trial).state.has_ended for trial in before)
        return ended and generation < self._population.generations

    def _propose(self, trials: Sequence[TrialRecord], number: int) -> TrialRecord:
        """The next trial.

        Raises:
            PopulationError: no member of the generation before has a result.
        """
        population = self._population
        generation, member = divmod(number, population.members)
        if generation == 0:
            return trial_of(population, first_plans(population)[member])
        before = trials[(generation - 1) * population.members : generation * population.members]
        plan = next_plans(population, [_done(trial) for trial in before])[member]
        return trial_of(population, plan)

    def _is_here(self, trial: TrialRecord, trials: Sequence[TrialRecord]) -> bool:
        """Whether this machine has the last checkpoint of a trial's parent.

        A parent that another machine took over may have left an earlier one here. A checkpoint that
        is missing on the machine that has run the parent is nowhere else, so there it counts as
        present: the trial fails, instead of waiting indefinitely.
        """
        plan, population = plan_of(trial), self._population
        if plan.parent is None:
            return True
        parent = trials[population.number(plan.generation - 1, plan.parent)]
        step, folder = first_end(parent).values[-1][0], folder_of(self._program.workdir, parent)
        if parent.holder is None or parent.holder.is_here() or newest_step(folder) == step:
            return True
        if trial.number not in self._left:
            self._left.add(trial.number)
            self._program.say(
                f"trial {trial.number:<4} is left to {parent.holder.host}, which has trained "
                f"{path_of(plan.generation - 1, plan.parent)}: its last checkpoint is not here"
            )
        return False

    def _overrides(self, trial: TrialRecord) -> dict[str, Any]:
        """The keys of the config that a trial sets."""
        plan, parent = plan_of(trial), None
        if plan.parent is not None:
            parent = self._program.workdir / path_of(plan.generation - 1, plan.parent)
        return overrides_of(self._definition, self._population, plan, parent)

    def _prepare(self, trial: TrialRecord) -> None:
        """Writes the lineage of a trial into its folder.

        Raises:
            WorkdirError: that cannot be written.
        """
        plan = plan_of(trial)
        lineage: dict[str, Any] = {"trial": trial.number, **plan.to_json()}
        if plan.parent is not None:
            lineage["starts_from"] = path_of(plan.generation - 1, plan.parent)
        folder = folder_of(self._program.workdir, trial)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WorkdirError(f"Cannot make {folder}: {explain(error)}") from error
        write_atomically(folder / LINEAGE_FILE, json.dumps(lineage, indent=1) + "\n")
        if plan.exploits:
            self._program.say(describe_member(trial.number, plan))

    def _value(self, number: int, values: Sequence[tuple[int, int, float]]) -> float | None:
        """The value at the end of the generation; None before, or if it is not finite."""
        generation = number // self._population.members
        last = (generation + 1) * self._population.epochs - 1
        return next((value for _, epoch, value in values if epoch == last), None)

    def _free_disk(self, trials: Sequence[TrialRecord]) -> Iterator[str]:
        """Removes the checkpoints that no member can start from, except of the best trials."""
        definition = self._definition
        if not definition.keep_checkpoints:
            return
        ended = [trial.state.has_ended for trial in trials]
        best = {trial.number for trial in ranked(definition, trials)[: definition.keep_checkpoints]}
        kept = best | needed(self._population, [plan_of(trial) for trial in trials], ended)
        for trial in trials:
            if trial.number not in kept and trial.state.has_ended:
                freed = remove_checkpoints(folder_of(self._program.workdir, trial))
                if freed is not None:
                    yield f"trial {trial.number:<4} checkpoints removed, {freed / 1e6:.1f} MB freed"


def _done(trial: TrialRecord) -> Done:
    end = first_end(trial)
    return Done(plan_of(trial), end.value if end.state is State.COMPLETE else None)


def describe_member(number: int, plan: Plan) -> str:
    """A line on an exploit."""
    changes = [f"{name} {_short(a)} -> {_short(b)}" for name, (a, b) in plan.changed.items()]
    return (
        f"trial {number:<4} member {plan.member} exploits member {plan.parent}: {plan.why}; "
        f"{', '.join(changes) or 'nothing changed'}"
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lineage_of(trial: TrialRecord, members: int) -> Mapping[str, Any]:
    """The attributes of a `TrialView` that only a trial of a population has."""
    plan = plan_of(trial)
    before = (plan.generation - 1) * members
    return {
        "member": plan.member,
        "generation": plan.generation,
        "parent": None if plan.parent is None else before + plan.parent,
        "changed": plan.changed,
        "exploits": plan.exploits,
    }
