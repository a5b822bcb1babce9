"""A population of real trainings, some of whose programs are killed: `make test-slow`."""

import dataclasses
import os
import random
import signal
import time

import pytest
from helpers.paths import ROOT
from helpers.population_program import storage_in, train_real_members
from helpers.small_runs import untimed
from helpers.sweep_program import programs
from helpers.workdirs import assert_same_arrays, last_state

from clac_jax.reporting.metrics_file import read_rows
from clac_jax.sweeps.checked import complete
from clac_jax.sweeps.definition import read
from clac_jax.sweeps.opened import folder_of
from clac_jax.sweeps.population_run import plan_of
from clac_jax.sweeps.storage import State

pytestmark = pytest.mark.slow

MEMBERS = 3
GENERATIONS = 3


@pytest.fixture(scope="module")
def definition(data_dir):
    given = read("smoke_population")
    cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    own = {"dataset.data_dir": str(data_dir), "compilation_cache": cache}
    filled = complete(dataclasses.replace(given, overrides={**given.overrides, **own}))
    return dataclasses.replace(filled, keep_checkpoints=0)


def trained(definition, workdir, kills):
    workdir.mkdir()
    variables = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    arguments = (definition.to_plain(), workdir, variables)
    context, chance = programs(), random.Random(5)
    while True:
        process = context.Process(target=train_real_members, args=arguments)
        process.start()
        if kills:
            kills -= 1
            time.sleep(chance.uniform(10.0, 40.0))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    with storage_in(workdir) as storage:
        return storage.trials()


@pytest.fixture(scope="module")
def undisturbed(definition, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("populations") / "undisturbed"
    return trained(definition, workdir, 0), workdir


def rows(workdir, trials):
    found = [read_rows(folder_of(workdir, trial) / "metrics.jsonl") for trial in trials]
    return [untimed(row) for each in found for row in each if row["split"] != "test"]


def test_a_member_that_never_changes_equals_a_single_run(undisturbed, definition, run, tmp_path):
    trials, workdir = undisturbed
    same = [trial for trial in trials if plan_of(trial).member == 0]
    assert not any(plan_of(trial).exploits for trial in same)
    keys = {**definition.overrides, **same[0].params, "max_epochs": GENERATIONS}
    done = run(tmp_path / "single", *(f"--config.{name}={value}" for name, value in keys.items()))
    assert done.returncode == 0, done.stderr
    single = [untimed(row) for row in read_rows(tmp_path / "single" / "metrics.jsonl")]
    assert rows(workdir, same) == [row for row in single if row["split"] != "test"]


def test_a_changed_learning_rate_acts_in_the_first_step(undisturbed):
    trials, workdir = undisturbed
    exploiting = [trial for trial in trials if plan_of(trial).exploits]
    assert exploiting
    for trial in exploiting:
        plan = plan_of(trial)
        parent = trials[MEMBERS * (plan.generation - 1) + plan.parent]
        _, now = plan.changed["learning_rate"]
        # Both are on the same schedule, at a different height.
        unchanged = trials[MEMBERS * plan.generation + plan.parent]
        assert plan_of(unchanged).parent == plan.parent
        first, other = (rows(workdir, [each])[0] for each in (trial, unchanged))
        assert first["step"] == other["step"] == parent.values[-1][0] + 1
        ratio = now / unchanged.params["learning_rate"]
        rate, own = first["learning_rate"], other["learning_rate"]
        assert rate / own == pytest.approx(ratio, rel=1e-3)


def test_killed_programs_change_no_bit(undisturbed, definition, tmp_path):
    trials, workdir = undisturbed
    killed = trained(definition, tmp_path / "killed", 6)
    assert sum(trial.fence for trial in killed) > len(trials), "some were taken again"
    for one, other in zip(trials, killed, strict=True):
        assert one.state is other.state is State.COMPLETE
        assert (one.params, one.extra, one.value) == (other.params, other.extra, other.value)
        step, arrays = last_state(folder_of(workdir, one))
        other_step, others = last_state(folder_of(tmp_path / "killed", other))
        assert step == other_step
        assert_same_arrays(arrays, others)
    assert rows(workdir, trials) == rows(tmp_path / "killed", killed)
