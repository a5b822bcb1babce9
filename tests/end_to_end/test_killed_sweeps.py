"""A sweep of real trainings, whose programs and trials are killed: `make test-slow`."""

import dataclasses
import os

import numpy as np
import pytest
from helpers.killed_sweeps import run_killed
from helpers.paths import ROOT
from helpers.sweep_program import drive_real_trials, programs
from helpers.workdirs import assert_same_arrays, last_state

from clac_jax.journal.journal_file import read_journal
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.sweeps.checked import complete
from clac_jax.sweeps.definition import read
from clac_jax.sweeps.opened import trial_folder
from clac_jax.sweeps.storage import State, Storage

pytestmark = pytest.mark.slow

TRIALS, KILLS, PROGRAMS = 20, 50, 3


@pytest.fixture(scope="module")
def definition(data_dir):
    given = read("smoke")
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    own = {"dataset.data_dir": str(data_dir), "compilation_cache": cache}
    return dataclasses.replace(
        complete(dataclasses.replace(given, overrides={**given.overrides, **own})),
        budget={"trials": TRIALS},
        parallel=3,
        keep_checkpoints=0,
    )


def swept(definition, workdir, kills, number):
    workdir.mkdir()
    url = f"sqlite:///{workdir / 'sweep.db'}"
    variables = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    arguments = (definition.to_plain(), url, str(workdir), variables)
    context = programs()

    def begin():
        process = context.Process(target=drive_real_trials, args=arguments)
        process.start()
        return process

    run_killed(begin, workdir, kills, number, pauses=(0.5, 4.0))
    with Storage(url, "lr") as storage:
        return storage.trials()


def test_50_kills_change_no_bit_of_20_trials(definition, tmp_path):
    expected = swept(definition, tmp_path / "undisturbed", 0, 1)
    killed = swept(definition, tmp_path / "killed", KILLS, PROGRAMS)
    assert {trial.state for trial in expected} == {State.COMPLETE, State.PRUNED}
    assert [trial.number for trial in killed] == list(range(TRIALS))
    assert sum(trial.fence for trial in killed) > TRIALS, "some were taken from killed programs"
    for one, other in zip(expected, killed, strict=True):
        assert (one.params, one.state) == (other.params, other.state)
        assert (one.value, one.values) == (other.value, other.values)
        last = one.values[-1][0]
        folders = [trial_folder(tmp_path / name, one.number) for name in ("undisturbed", "killed")]
        # Each step has a digest of the state, also those of a pruned trial up to its verdict.
        steps = [read_journal(folder).steps for folder in folders]
        digests = [each["digests"][each["step"] <= last] for each in steps]
        np.testing.assert_array_equal(*digests)
        assert len(digests[0]) == last
        rows = [
            [row for row in read_rows(folder / "metrics.jsonl") if row["split"] == "val"]
            for folder in folders
        ]
        assert rows[0][: len(one.values)] == rows[1][: len(one.values)]
        if one.state is State.COMPLETE:
            (step, state), (other_step, other_state) = map(last_state, folders)
            assert step == other_step == last
            assert_same_arrays(state, other_state)
