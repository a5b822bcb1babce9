"""The choice of the values that a trial tries."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clac_jax.sweeps.checked import values_at
from clac_jax.sweeps.database import import_optuna
from clac_jax.sweeps.definition import SAMPLER_OPTIONS, Definition
from clac_jax.sweeps.space import Choice, Domain, Value, is_active, ordered
from clac_jax.sweeps.storage import TrialRecord
from clac_jax.sweeps.study_view import SAMPLER_STATE, seed_of, study_of


def trials_at_most(definition: Definition) -> int | None:
    """The number of trials after which a sweep ends; None if only its hours are limited."""
    if definition.population is not None:
        return int(definition.population["members"] * definition.population["generations"])
    budget = definition.budget.get("trials")
    limits = [] if budget is None else [int(budget)]
    if definition.sampler["name"] == "grid":
        limits.append(len(_grid(definition)))
    return min(limits, default=None)


def propose(definition: Definition, trials: Sequence[TrialRecord], number: int) -> TrialRecord:
    """A new trial: a pure function of its arguments.

    Args:
        definition: the sweep, complete.
        trials: the trials before it, by number; those up to `number` - parallel have ended.
        number: its number.
    """
    kind, space = definition.sampler["name"], definition.space
    if kind == "grid":
        return TrialRecord(number, _grid(definition)[number])
    if kind == "random":
        shares = np.random.default_rng(seed_of(definition, number)).random(len(space)).tolist()
    elif kind == "qmc":
        shares = _quasi_random(definition, number)
    else:
        return _asked(definition, trials, number)
    return TrialRecord(number, values_at(space, dict(zip(space, shares, strict=True))))


def _quasi_random(definition: Definition, number: int) -> list[float]:
    """The point of a scrambled Sobol sequence."""
    from scipy.stats import qmc

    points = qmc.Sobol(len(definition.space), scramble=True, rng=definition.seed)
    if number:
        points.fast_forward(number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a single point has no balance
        point: list[float] = points.random(1)[0].tolist()
    return point


def _grid(definition: Definition) -> list[dict[str, Value]]:
    """All points of a grid, in a random order that the seed decides."""
    options = {**SAMPLER_OPTIONS["grid"], **definition.sampler}
    return _shuffled_grid(_Space(definition), int(options["points"]), definition.seed)


class _Space:
    """A space that can be the argument of a cached function."""

    def __init__(self, definition: Definition):
        self.domains = definition.space
        self._key = repr(sorted(definition.space.items()))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Space) and self._key == other._key


@functools.lru_cache(maxsize=4)
def _shuffled_grid(space: _Space, points: int, seed: int) -> list[dict[str, Value]]:
    names = ordered(space.domains)
    found: dict[str, dict[str, Value]] = {}
    for combination in itertools.product(*(space.domains[name].grid(points) for name in names)):
        values: dict[str, Value] = {}
        for name, value in zip(names, combination, strict=True):
            if is_active(space.domains[name], values):
                values[name] = value
        found.setdefault(repr(values), values)
    result = list(found.values())
    order = np.random.default_rng(seed).permutation(len(result))
    return [result[place] for place in order]


def _asked(definition: Definition, trials: Sequence[TrialRecord], number: int) -> TrialRecord:
    """The proposal of a sampler of Optuna."""
    space = definition.space
    study = study_of(definition, trials, number, sampler=_sampler(definition, number))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental arguments
        trial = study.ask()
        values: dict[str, Value] = {}
        for name in ordered(space):
            if is_active(space[name], values):
                values[name] = _suggested(trial, name, space[name])
    noted = study.trials[number].system_attrs
    return TrialRecord(number, values, {SAMPLER_STATE: _plain(noted)} if noted else {})


def _suggested(trial: Any, name: str, domain: Domain) -> Value:
    """A value that the sampler proposes for one key."""
    if isinstance(domain, Choice):
        return domain.values[trial.suggest_categorical(name, range(len(domain.values)))]
    if domain.is_integer:
        return trial.suggest_int(name, int(domain.low), int(domain.high), log=domain.is_log)
    return trial.suggest_float(name, domain.low, domain.high, log=domain.is_log)


def _sampler(definition: Definition, number: int) -> Any:
    samplers, seed = import_optuna().samplers, seed_of(definition, number)
    options = {**SAMPLER_OPTIONS[definition.sampler["name"]], **definition.sampler}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental arguments
        if options["name"] == "tpe":
            return samplers.TPESampler(
                seed=seed,
                n_startup_trials=int(options["startup_trials"]),
                constant_liar=definition.parallel > 1,
            )
        return samplers.CmaEsSampler(
            seed=seed,
            sigma0=options["sigma"],
            independent_sampler=samplers.RandomSampler(seed=seed),
            warn_independent_sampling=False,
        )


def _plain(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The notes of a sampler, as JSON keeps it."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in attributes.items()
    }
