"""The earlier trials of a sweep as a study of Optuna in memory, for its samplers and pruners.

What trial n tries, and whether it is pruned, is a function of the sweep file and of the results of
the trials numbered up to n - parallel. So the study that is shown holds exactly those results; of
the trials in between only the parameters are known, as of running ones.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.sweeps.database import import_optuna
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.space import Choice, Domain, Value
from clac_jax.sweeps.storage import State, TrialRecord

if TYPE_CHECKING:
    import optuna

SAMPLER_STATE, PRUNER_STATE = "sampler", "pruner"
"""Names under which a trial's `extra` and `result` keep what Optuna has noted about it."""
BEFORE = "before"
"""Name under which the `extra` of a revived trial keeps its first end."""


def first_end(trial: TrialRecord) -> TrialRecord:
    """A trial with the end that counts for other trials: if it was revived, the first one.

    So the choice of other trials does not depend on whether and when a trial is revived.
    """
    before = trial.extra.get(BEFORE)
    if before is None:
        return trial
    return dataclasses.replace(trial, state=State(before["state"]), result=before["result"])


def revived(trial: TrialRecord) -> dict[str, Any]:
    """The `extra` of a trial that is about to be run again, to its end."""
    end = {"state": trial.state.value, "result": trial.result}
    return {BEFORE: end, **trial.extra}


def seed_of(definition: Definition, number: int) -> int:
    """A seed for one trial, from the seed of the sweep."""
    return int(np.random.SeedSequence([definition.seed, number]).generate_state(1)[0])


def study_of(
    definition: Definition,
    trials: Sequence[TrialRecord],
    number: int,
    *,
    sampler: optuna.samplers.BaseSampler | None = None,
    pruner: optuna.pruners.BasePruner | None = None,
) -> Any:
    """The study that trial `number` is shown; `ask` of it makes that trial.

    Args:
        definition: the sweep.
        trials: all trials before it, by number.
        number: number of the trial.
        sampler: the sampler; None if none is used.
        pruner: the same for the pruner.
    """
    optuna = import_optuna()
    study = optuna.create_study(
        study_name="sweep",
        direction=definition.direction,
        sampler=sampler or optuna.samplers.RandomSampler(seed=0),
        pruner=pruner or optuna.pruners.NopPruner(),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of experimental arguments
        for trial in trials[:number]:
            study.add_trial(
                _frozen(definition, trial, trial.number <= number - definition.parallel)
            )
    return study


def distribution(domain: Domain) -> optuna.distributions.BaseDistribution:
    """A domain as Optuna describes it; a choice is the index of its value."""
    kinds = import_optuna().distributions
    if isinstance(domain, Choice):
        kind: optuna.distributions.BaseDistribution = kinds.CategoricalDistribution(
            range(len(domain.values))
        )
    elif domain.is_integer:
        kind = kinds.IntDistribution(int(domain.low), int(domain.high), log=domain.is_log)
    else:
        kind = kinds.FloatDistribution(domain.low, domain.high, log=domain.is_log)
    return kind


def internal(domain: Domain, value: Value) -> Any:
    """A value as it is in Optuna's study."""
    if not isinstance(domain, Choice):
        return value
    return next(
        place for place, each in enumerate(domain.values) if Choice((each,)).contains(value)
    )


def _frozen(definition: Definition, trial: TrialRecord, is_known: bool) -> Any:
    """A trial as Optuna stores it; with its result only if that is known."""
    optuna, trial = import_optuna(), first_end(trial)
    states, state, value = optuna.trial.TrialState, optuna.trial.TrialState.RUNNING, None
    attributes = dict(trial.extra.get(SAMPLER_STATE, {}))
    reports: dict[int, float] = {}
    if is_known:
        assert trial.state.has_ended, f"trial {trial.number} has no result yet"
        attributes |= trial.result.get(PRUNER_STATE, {})
        reports = {epoch + 1: value for _, epoch, value in trial.values if not math.isnan(value)}
        value = trial.value
        kinds = {State.COMPLETE: states.COMPLETE, State.PRUNED: states.PRUNED}
        state = kinds.get(trial.state, states.FAIL) if value is not None else states.FAIL
    return optuna.trial.create_trial(
        state=state,
        value=value if state != states.FAIL else None,
        params={
            name: internal(definition.space[name], each) for name, each in trial.params.items()
        },
        distributions={name: distribution(definition.space[name]) for name in trial.params},
        system_attrs=attributes,
        intermediate_values=reports,
    )
