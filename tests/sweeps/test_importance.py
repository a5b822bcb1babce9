"""Which keys of a sweep mattered."""

import dataclasses

import pytest
from helpers.sweep_views import SPACE, population, thirty_trials

from clac_jax.sweeps.importance import importance_of
from clac_jax.sweeps.view import SweepView, TrialView


def complete(view, count=None):
    trials = [trial for trial in view.trials if trial.state == "complete"][:count]
    return dataclasses.replace(view, trials=trials)


def test_the_key_that_decides_is_the_most_important():
    found = importance_of(thirty_trials())
    assert next(iter(found.shares)) == "learning_rate"
    assert set(found.shares) == set(SPACE)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)


def test_the_better_direction_decides_which_trials_are_good():
    view = complete(thirty_trials())
    higher = [dataclasses.replace(trial, value=-trial.value) for trial in view.trials]
    other = dataclasses.replace(view, trials=higher, mode="max")
    assert importance_of(other).shares == pytest.approx(importance_of(view).shares)


@pytest.mark.parametrize(
    "view, words",
    [
        (complete(thirty_trials(), 19), "19 complete trials of the 20 that are needed"),
        (SweepView("s", "val_loss", "min", []), "0 complete trials of the 20"),
        (population(), "Not estimated for a population"),
        (
            SweepView(
                "s",
                "val_loss",
                "min",
                [
                    TrialView(k, "complete", {"learning_rate": 1e-3 * (k + 1)}, value=1.0)
                    for k in range(25)
                ],
                SPACE,
            ),
            "all trials have the same value",
        ),
    ],
)
def test_it_says_why_it_does_not_estimate(view, words):
    found = importance_of(view)
    assert words in found.words
    assert not found.shares
