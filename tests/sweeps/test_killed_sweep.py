"""A sweep whose programs and trials are killed ends as an undisturbed one."""

import pytest
from helpers.killed_sweeps import run_killed
from helpers.sweep_program import drive_quickly, programs

from clac_jax.sweeps import choice, log, uniform
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.opened import trial_folder
from clac_jax.sweeps.storage import State, Storage

TRIALS, KILLS, PROGRAMS = 12, 10, 3
SWEEP = Definition(
    config="smoke",
    space={
        "x": log(1e-4, 1.0),
        "schedule": choice("constant", "cosine"),
        "y": uniform(0.0, 1.0, when={"schedule": "cosine"}),
    },
    overrides={"max_epochs": 4},
    monitor="val_loss",
    mode="min",
    sampler={"name": "tpe", "startup_trials": 4},
    prune={"name": "hyperband", "min_epochs": 1, "reduction": 3},
    budget={"trials": TRIALS},
    parallel=3,
    seed=5,
    keep_checkpoints=0,
)


def contents(url, workdir):
    """(what each trial tried, its result, its checkpoints that count)."""
    with Storage(url, "lr") as storage:
        trials = storage.trials()
    assert [trial.number for trial in trials] == list(range(TRIALS))
    result = []
    for trial in trials:
        last = max(step for step, _, _ in trial.values)
        folder = trial_folder(workdir, trial.number) / "checkpoints"
        states = [(folder / str(step) / "state").read_text() for step in range(1, last + 1)]
        result.append((trial.params, trial.state, trial.value, trial.values, states))
    return result


@pytest.fixture(scope="module")
def context():
    return programs()


@pytest.fixture
def sweep(tmp_path, context):
    """(name, kills, programs) -> the contents of a sweep, after random kills of its processes."""

    def run(name, kills, number):
        workdir = tmp_path / name
        workdir.mkdir()
        url = f"sqlite:///{workdir / 'sweep.db'}"
        arguments = (SWEEP.to_plain(), url, str(workdir), {"PRETEND_SECONDS": "0.03"})

        def begin():
            process = context.Process(target=drive_quickly, args=arguments)
            process.start()
            return process

        run_killed(begin, workdir, kills, number, pauses=(0.01, 0.12))
        return contents(url, workdir)

    return run


def test_the_trials_and_their_bits_do_not_depend_on_kills_or_the_number_of_programs(sweep):
    expected = sweep("undisturbed", 0, 1)
    states = {state for _, state, *_ in expected}
    assert states == {State.COMPLETE, State.PRUNED}, "both are compared"
    assert sweep("killed", KILLS, PROGRAMS) == expected
