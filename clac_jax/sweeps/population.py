"""Population based training: who starts from whose checkpoint, with which keys changed.

The members of a population train in generations (Jaderberg et al., arXiv:1711.09846). After each,
the worst ones exploit better ones: they start from a better member's checkpoint with its keys, and
explore: some keys change. Every decision is a function of only the sweep file and the results of
the generation before, so it is the same in every program, and after any number of kills.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clac_jax.errors import UserError
from clac_jax.sweeps.space import Choice, Domain, Range, Value, is_active, ordered

RESAMPLE = "resample"
"""In `explore`: a new value from the space, instead of the old one times a factor."""

Explore = Mapping[str, tuple[float, ...] | str]


class PopulationError(UserError):
    """A population cannot continue."""


@dataclass(frozen=True)
class Population:
    """The settings of a population.

    Attributes:
        members: number of members.
        generations: number of generations.
        epochs: epochs that a member trains in one generation.
        exploit: share of the members that exploit a better one after each generation; at least one.
        explore: dotted key -> the factors one of which its value is multiplied by, or `RESAMPLE`.
        space: dotted key -> its values: drawn from for generation 0, bounds later.
        mode: "min" or "max", the better direction of the measure.
        seed: the seed of every draw.
    """

    members: int
    generations: int
    epochs: int
    exploit: float
    explore: Explore
    space: Mapping[str, Domain]
    mode: str
    seed: int

    @property
    def num_exploiting(self) -> int:
        """Members that may exploit a better one after a generation, besides those that failed."""
        return max(1, int(self.members * self.exploit + 1e-9))

    @property
    def epochs_in_all(self) -> int:
        """Epochs from the first generation to the last."""
        return self.generations * self.epochs

    def number(self, generation: int, member: int) -> int:
        """The number of the trial that a member is in a generation."""
        return generation * self.members + member


@dataclass(frozen=True)
class Plan:
    """The task of a member in a generation.

    Attributes:
        member: its number, counted from 0.
        generation: the number of the generation, counted from 0.
        values: dotted key -> value, of all keys of the space.
        parent: the member from whose checkpoint of the generation before it starts; None at first.
        changed: dotted key -> (value in the parent, value now), of those that explored.
        why: the reason, in words.
    """

    member: int
    generation: int
    values: Mapping[str, Value]
    parent: int | None = None
    changed: Mapping[str, tuple[Value, Value]] = field(default_factory=dict)
    why: str = "the first generation"

    @property
    def exploits(self) -> bool:
        """Whether it starts from another member's checkpoint."""
        return self.parent not in (None, self.member)

    def to_json(self) -> dict[str, Any]:
        """Plain values, the inverse of `from_json`."""
        changed = {name: list(pair) for name, pair in self.changed.items()}
        return {**vars(self), "values": dict(self.values), "changed": changed}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Plan:
        """The plan that a trial has stored."""
        values = {name: _tuple(value) for name, value in given["values"].items()}
        changed = {
            name: (_tuple(then), _tuple(now)) for name, (then, now) in given["changed"].items()
        }
        return cls(**{**given, "values": values, "changed": changed})


@dataclass(frozen=True)
class Done:
    """A member at the end of a generation.

    Attributes:
        plan: what it has done.
        value: the measure at the end, finite; None if it diverged or failed.
    """

    plan: Plan
    value: float | None


def first_plans(population: Population) -> list[Plan]:
    """Generation 0: each key's values are spread evenly, and combined at random."""
    size, drawn = population.members, {}
    for place, name in enumerate(sorted(population.space)):
        rng = np.random.default_rng((population.seed, 0, place))
        shares = (rng.permutation(size) + rng.random(size)) / size  # one in each of `size` parts
        drawn[name] = [population.space[name].at(float(share)) for share in shares]
    return [
        Plan(member, 0, {name: values[member] for name, values in drawn.items()})
        for member in range(size)
    ]


def next_plans(population: Population, before: Sequence[Done]) -> list[Plan]:
    """The generation after one that has ended.

    The worst members exploit: each one draws one of the equally many best ones. A member without
    a value is among the worst, however many there are. A tie is not exploited.

    Args:
        population: the settings.
        before: all members of the last generation, by number.

    Raises:
        PopulationError: none has a value.
    """
    sign = 1.0 if population.mode == "min" else -1.0
    valued = [done for done in before if done.value is not None]
    generation = before[0].plan.generation + 1
    if not valued:
        raise PopulationError(
            f"No member of generation {generation - 1} has a result, so there is none to continue "
            "from. See the output.txt in their folders, correct the cause in the sweep file, and "
            "start a new sweep."
        )
    best = sorted(valued, key=lambda done: (sign * (done.value or 0.0), done.plan.member))
    failed = [done for done in before if done.value is None]
    count = population.num_exploiting
    donors, worst = best[:count], [*[*best, *failed][-count:], *failed]
    plans = []
    for done in before:
        member = done.plan.member
        rng = np.random.default_rng((population.seed, generation, member))
        donor = donors[int(rng.integers(len(donors)))]
        is_better = done.value is None or sign * ((donor.value or 0.0) - done.value) < 0
        if done in worst and is_better:
            plans.append(_exploiting(population, done, donor, rng))
        else:
            why = "continues from its own checkpoint"
            plans.append(Plan(member, generation, done.plan.values, member, why=why))
    return plans


def active(space: Mapping[str, Domain], values: Mapping[str, Value]) -> dict[str, Value]:
    """Of the values of all keys those that have an effect, given the others."""
    chosen: dict[str, Value] = {}
    for name in ordered(space):
        if is_active(space[name], chosen):
            chosen[name] = values[name]
    return {name: chosen[name] for name in space if name in chosen}


def needed(population: Population, plans: Sequence[Plan], ended: Sequence[bool]) -> set[int]:
    """The numbers of the trials whose checkpoints a member starts from, or may start from.

    Args:
        population: the settings.
        plans: the trials that are stored, by number; the newest generation may lack some yet.
        ended: for each of them whether it has ended.

    Returns:
        The newest generation, and the parents of those in it that have not ended; while it lacks
        some, all of the generation before, from any of which these may start.
    """
    newest = plans[-1].generation if plans else 0
    numbers: set[int] = set()
    begins = population.number(newest, 0)
    if len(plans) < begins + population.members:
        numbers.update(range(max(begins - population.members, 0), begins))
    for plan, has_ended in zip(plans, ended, strict=True):
        if plan.generation < newest:
            continue
        numbers.add(population.number(newest, plan.member))
        if plan.parent is not None and not has_ended:
            numbers.add(population.number(newest - 1, plan.parent))
    return numbers


def _exploiting(population: Population, done: Done, donor: Done, rng: np.random.Generator) -> Plan:
    values, changed = dict(donor.plan.values), {}
    for name in sorted(population.explore):
        rule, domain, then = population.explore[name], population.space[name], values[name]
        draw = float(rng.random())  # for every key, so that one does not decide the next one's
        now = domain.at(draw) if isinstance(rule, str) else _perturbed(domain, then, rule, draw)
        if now != then:
            values[name], changed[name] = now, (then, now)
    reached = "it failed" if done.value is None else f"it reached {done.value:.5g}"
    why = f"{reached}, member {donor.plan.member} {donor.value:.5g}"
    return Plan(done.plan.member, done.plan.generation + 1, values, donor.plan.member, changed, why)


def _perturbed(domain: Domain, value: Any, factors: Sequence[float], draw: float) -> Value:
    """A number times one of the factors, within its bounds; integers move by at least 1."""
    assert isinstance(domain, Range)
    factor = factors[min(int(draw * len(factors)), len(factors) - 1)]
    new = value * factor
    if domain.is_integer:
        new = round(new)
        if new == value and factor != 1:
            new += 1 if factor > 1 else -1
    else:
        new = float(f"{new:.12g}")
    return min(max(new, domain.low), domain.high)


def _tuple(value: Value) -> Value:
    return tuple(value) if isinstance(value, list) else value


def wrong_rule(name: str, rule: Any, domain: Domain | None) -> str:
    """The mistake in a rule of `explore`, as a sentence; "" if there is none."""
    if domain is None:
        return f'"{name}" is not in the space. Add it there, or remove it from explore.'
    if rule == RESAMPLE:
        return ""
    if isinstance(domain, Choice):
        return f'"{name}" is a choice, which has no factors. Write "{RESAMPLE}".'
    factors = rule if isinstance(rule, tuple | list) else ()
    positive = [isinstance(f, int | float) and not isinstance(f, bool) and f > 0 for f in factors]
    if not positive or not all(positive):
        return f'"{name}" has {rule!r}. Write factors, (0.8, 1.25), or "{RESAMPLE}".'
    return ""
