"""When a run has ended or stops for now, and what it says."""

import ml_collections
import pytest

from clac_jax.training.progress import RunProgress
from clac_jax.training.run_end import has_ended, stops_for_now, why_ended


def config(**changes):
    result = ml_collections.ConfigDict(
        {
            "max_epochs": 8,
            "early_stopping_patience": 0,
            "stop_at_epoch": 0,
            "stop_at_step": 0,
            "checkpoint": {"monitor": "val_loss"},
        }
    )
    result.update(changes)
    return result


def at(step, epoch, **more):
    return RunProgress(step=step, epoch=epoch, **more)


@pytest.mark.parametrize(
    "changes, step, epoch, stops",
    [
        ({}, 30, 3, False),
        ({"stop_at_epoch": 3}, 29, 2, False),
        ({"stop_at_epoch": 3}, 30, 3, True),
        ({"stop_at_epoch": 3}, 55, 5, True),  # already past it
        ({"stop_at_step": 35}, 34, 3, False),
        ({"stop_at_step": 35}, 35, 3, True),
        ({"stop_at_epoch": 5, "stop_at_step": 35}, 35, 3, True),  # what comes first
        ({"stop_at_epoch": 8}, 80, 8, False),  # it has ended
        ({"stop_at_epoch": 20}, 79, 7, False),
        ({"stop_at_step": 1000}, 80, 8, False),
    ],
)
def test_it_stops_at_the_epoch_or_step_unless_it_has_ended(changes, step, epoch, stops):
    assert stops_for_now(config(**changes), at(step, epoch)) is stops


def test_the_validation_of_a_trained_epoch_is_done_before_the_stop():
    assert not stops_for_now(config(stop_at_step=30), at(30, 2), validates_next=True)
    assert stops_for_now(config(stop_at_step=30), at(30, 3))


def test_early_stopping_ends_the_run_where_it_would_stop_for_now():
    patience = config(early_stopping_patience=2, stop_at_epoch=3)
    progress = at(30, 3, validations_since_best=2)
    assert has_ended(patience, progress)
    assert not stops_for_now(patience, progress)
    assert why_ended(patience, progress).startswith("stopped early after 3 of 8 epochs, step 30: 2")


@pytest.mark.parametrize(
    "changes, key",
    [({"stop_at_epoch": 3}, "stop_at_epoch=3"), ({"stop_at_step": 4}, "stop_at_step=4")],
)
def test_the_reason_names_the_key_to_raise(changes, key):
    said = why_ended(config(**changes), at(1234, 3))
    assert said == (
        f"stopped for now after 3 of 8 epochs, step 1,234, by {key}; raise it to train further"
    )
