"""The exported model of the best trial is the state that had the value which is shown."""

import dataclasses

import pytest

from clac_jax.sweeps import log
from clac_jax.sweeps.best_model import UnsavedModelError, checkpoint_name
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.storage import State, TrialRecord

SWEEP = Definition(
    config="smoke", space={"learning_rate": log(1e-4, 1e-2)}, monitor="val_loss", mode="min"
)
POPULATION = dataclasses.replace(SWEEP, population={"members": 2, "generations": 1, "epochs": 2})


@pytest.fixture
def folder(tmp_path):
    """(*steps) -> the folder of a trial that has saved these."""

    def make(*steps):
        for step in steps:
            (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
        return tmp_path

    return make


def trial(value, *values):
    rows = [[4 * (epoch + 1), epoch, each] for epoch, each in enumerate(values)]
    return TrialRecord(3, {}, state=State.COMPLETE, result={"value": value, "values": rows})


def test_the_step_with_the_value_of_the_trial_is_named(folder):
    path = folder(4, 8, 12)
    assert checkpoint_name(SWEEP, trial(0.5, 0.7, 0.5, 0.6), path) == f"{path}@step=8"


def test_of_equal_values_one_that_was_saved_is_named(folder):
    path = folder(12)
    assert checkpoint_name(SWEEP, trial(0.5, 0.5, 0.7, 0.5), path) == f"{path}@step=12"


def test_a_generation_has_the_value_of_its_end(folder):
    path = folder(4, 8)
    assert checkpoint_name(POPULATION, trial(0.5, 0.5, 0.5), path) == f"{path}@step=8"
    assert checkpoint_name(POPULATION, trial(0.5, 0.4, 0.5), path) == f"{path}@step=8"


@pytest.mark.parametrize("mode, best", [("min", 8), ("max", 12)])
def test_a_value_whose_state_was_not_saved_names_those_that_were(folder, mode, best):
    path, sweep = folder(6, 8, 12, 16), dataclasses.replace(SWEEP, mode=mode)
    with pytest.raises(UnsavedModelError) as raised:
        checkpoint_name(sweep, trial(0.25, 0.25, 0.5, 0.75, float("nan")), path)
    for text in (
        "Trial 3 reached val_loss 0.25 at step 4, which was not saved",
        "step 6 (not validated), step 8 (val_loss 0.5), step 12 (val_loss 0.75), step 16 (",
        f"`clac-jax publish {path}@step={best} FOLDER`",
    ):
        assert text in str(raised.value)
