"""Which keys of a sweep mattered, estimated from its trials."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from clac_jax.errors import counted
from clac_jax.sweeps.space import Choice, Domain
from clac_jax.sweeps.view import COMPLETE, SweepView

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

MIN_TRIALS = 20
QUANTILE = 0.25
"""Share of the trials that count as good: at least five, which the estimate needs."""


@dataclass(frozen=True)
class Importance:
    """The share of each key in whether a trial was among the good ones.

    Attributes:
        shares: dotted key -> share, the largest first; they add up to 1. {} if not estimated.
        words: how it was estimated, or why not, as sentences.
    """

    words: str
    shares: Mapping[str, float] = field(default_factory=dict)


def importance_of(view: SweepView) -> Importance:
    """Estimates the importance of the keys by Optuna's PED-ANOVA (arXiv:2304.10255)."""
    if view.is_population:
        return Importance(
            "Not estimated for a population, in which one member has many values of a key, one "
            "after the other."
        )
    trials = [t for t in view.trials if t.state == COMPLETE and t.has_value and t.params]
    if len(trials) < MIN_TRIALS:
        return Importance(
            f"Not estimated: {counted(len(trials), 'complete trial')} of the {MIN_TRIALS} that are "
            "needed. With fewer, the order of the keys is mostly chance."
        )
    if len({trial.value for trial in trials}) == 1:
        return Importance("Not estimated: all trials have the same value.")
    try:
        import optuna
    except ImportError:
        return Importance('Not estimated: run pip install "clac-jax[sweep]" for Optuna.')
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        minimize = view.mode == "min"
        study = optuna.create_study(direction="minimize" if minimize else "maximize")
        for trial in trials:
            known = {name: view.space[name] for name in trial.params if name in view.space}
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: _plain(view.space[name], trial.params[name]) for name in known},
                    distributions={name: _distribution(domain) for name, domain in known.items()},
                    value=trial.value,
                )
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=QUANTILE)
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(verbosity)
    if not any(shares.values()):
        return Importance("Not estimated: no key varies enough among the complete trials.")
    ordered = dict(sorted(shares.items(), key=lambda each: -each[1]))
    return Importance(
        f"How much each key decided whether a trial was in the best {QUANTILE:.0%} of the "
        f"{len(trials)} complete ones (PED-ANOVA). It sees each key on its own: two keys that "
        "matter only together are missed, and a key that the sampler hardly varied looks "
        "unimportant.",
        ordered,
    )


def _distribution(domain: Domain) -> BaseDistribution:
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if isinstance(domain, Choice):
        return CategoricalDistribution([repr(value) for value in domain.values])
    if domain.is_integer:
        return IntDistribution(int(domain.low), int(domain.high), log=domain.is_log)
    return FloatDistribution(domain.low, domain.high, log=domain.is_log)


def _plain(domain: Domain, value: object) -> object:
    """A value as Optuna stores it: of choices, which may be tuples, the text."""
    if not isinstance(domain, Choice):
        return value
    return repr(tuple(value) if isinstance(value, list) else value)
