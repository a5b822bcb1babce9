"""A sweep as it is shown: its trials as plain values, wherever they are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clac_jax.sweeps.space import Domain

COMPLETE, PRUNED, FAILED, RUNNING, WAITING = STATES = (
    "complete", "pruned", "failed", "running", "waiting",
)  # fmt: skip


@dataclass(frozen=True)
class TrialView:
    """A trial; of a population, one generation of one member.

    Attributes:
        number: its number, counted from 0; in a population, by generation and then by member.
        state: one of `STATES`.
        params: dotted key -> value, of the keys that have an effect in it.
        values: (step, epoch, monitored value) of each validation, by step; epochs count from 0.
        value: the value by which trials are compared; None if it has none.
        seconds: time that it has trained, over all its starts; None if unknown.
        workdir: its folder, relative to that of the sweep where it is inside.
        note: why it has ended, in one sentence; "" if that is obvious.
        member: its member of the population, from 0; None outside of one.
        generation: its generation, from 0; None outside of a population.
        parent: number of the trial from whose checkpoint it started; None if there is none.
        changed: dotted key -> (value in the parent, value here), of the keys that were changed.
        exploits: whether the parent is another member of the population.
    """

    number: int
    state: str
    params: Mapping[str, Any]
    values: Sequence[tuple[int, int, float]] = ()
    value: float | None = None
    seconds: float | None = None
    workdir: str = ""
    note: str = ""
    member: int | None = None
    generation: int | None = None
    parent: int | None = None
    changed: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    exploits: bool = False

    @property
    def has_value(self) -> bool:
        """Whether it has a finite value."""
        return self.value is not None and math.isfinite(self.value)


@dataclass(frozen=True)
class SweepView:
    """A sweep.

    Attributes:
        name: its name.
        monitor: the measure that is compared.
        mode: "min" or "max", the better direction.
        trials: the trials by number.
        space: dotted key -> the values that it may take.
        facts: further names and values for the head of the page.
    """

    name: str
    monitor: str
    mode: str
    trials: Sequence[TrialView]
    space: Mapping[str, Domain] = field(default_factory=dict)
    facts: Sequence[tuple[str, str]] = ()

    @property
    def is_population(self) -> bool:
        """Whether it trains a population."""
        return any(trial.member is not None for trial in self.trials)

    def best_first(self) -> list[TrialView]:
        """The trials with a finite value, best first; of equal ones the earlier is better."""
        sign = 1.0 if self.mode == "min" else -1.0
        valued = [trial for trial in self.trials if trial.has_value]
        return sorted(valued, key=lambda trial: (sign * (trial.value or 0.0), trial.number))

    def used_keys(self) -> list[str]:
        """The keys that a trial sets, those of the space first."""
        used = dict.fromkeys(key for trial in self.trials for key in trial.params)
        return [key for key in self.space if key in used] + [k for k in used if k not in self.space]
