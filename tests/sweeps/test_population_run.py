"""A population is trained: by one program or several, undisturbed or killed, to the same bits."""

import contextlib
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time

import pytest
from helpers.paths import ROOT
from helpers.pretend_member import after, newest

from clac_jax.sweeps import log, population_run, trial_run
from clac_jax.sweeps.population import Plan, Population, PopulationError
from clac_jax.sweeps.population_run import PopulationDriver, PopulationTask, plan_of
from clac_jax.sweeps.storage import State, Storage

MEMBER = (sys.executable, "-S", str(ROOT / "tests" / "helpers" / "pretend_member.py"))
LINES = {"space": {"learning_rate": log(1e-5, 1e-1)}, "explore": {"learning_rate": (0.5, 2.0)}}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module in (population_run, trial_run):
        monkeypatch.setattr(module, "POLL_SECONDS", 0.005)
    monkeypatch.setattr(trial_run, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(population_run, "LOOK_SECONDS", 0.02)


def task_in(workdir, keep=0, members=4, generations=4, **changes):
    settings = {"epochs": 2, "exploit": 0.25, "mode": "min", "seed": 1, **LINES, **changes}
    population = Population(members=members, generations=generations, **settings)
    return PopulationTask(population, "smoke", {}, "val_loss", workdir, keep, command=MEMBER)


def storage_of(task):
    return Storage(f"sqlite:///{task.workdir}/sweep.db", "population")


def trained(task, slots=2):
    """The trials of a population that nobody disturbs."""
    with storage_of(task) as storage:
        slots = [{} for _ in range(slots)]
        return PopulationDriver(task, storage, slots, lambda line: None).run(threading.Event())


def result_of(task, records):
    """All that must not depend on who has trained the population, and how."""
    found = {}
    for record in records:
        plan = plan_of(record)
        folder = task.folder(plan.generation, plan.member)
        assert json.loads((folder / "lineage.json").read_text())["values"] == plan.values
        states = sorted((folder / "checkpoints").glob("[0-9]*/state.json"), key=str)
        found[record.number] = (
            plan,
            record.params,
            record.state,
            record.values,
            record.value,
            (folder / "metrics.jsonl").read_text(),
            [(path.parent.name, path.read_text()) for path in states],
        )
    return found


def test_generations_build_on_each_other_and_the_worst_become_better(tmp_path):
    task = task_in(tmp_path)
    records = trained(task)
    assert [record.state for record in records] == [State.COMPLETE] * 16
    plans = [plan_of(record) for record in records]
    assert [(plan.generation, plan.member) for plan in plans] == [
        (generation, member) for generation in range(4) for member in range(4)
    ]
    assert any(plan.exploits for plan in plans)
    for record, plan in zip(records, plans, strict=True):
        assert [epoch for _, epoch, _ in record.values] == [
            2 * plan.generation,
            2 * plan.generation + 1,
        ]
        epoch, state = 0, [1.0, 2.0, 3.0, 4.0]
        if plan.generation:
            epoch, state = newest(task.folder(plan.generation - 1, plan.parent))
        for each in range(epoch, epoch + 2):
            state = after(each, state, plan.values["learning_rate"])
        assert newest(task.folder(plan.generation, plan.member)) == (epoch + 2, state)
    generations = [[r.value for r in records[4 * g : 4 * g + 4]] for g in range(4)]
    assert max(generations[3]) < min(generations[0])
    page = (tmp_path / "sweep.html").read_text()
    assert "member 3, generation 3" in page
    assert "16 complete" in page


def test_the_keys_of_a_trial_are_those_of_its_plan_with_an_unchanged_schedule(tmp_path):
    task = task_in(tmp_path)
    plan = Plan(2, 3, {"learning_rate": 5e-4}, parent=1)
    given = task.spec(plan, {"CUDA_VISIBLE_DEVICES": "1"})
    assert given.environment == {"CUDA_VISIBLE_DEVICES": "1"}
    assert given.workdir == tmp_path / "members" / "02" / "gen_03"
    keys = given.overrides
    assert (keys["max_epochs"], keys["stop_at_epoch"]) == (8, 8)
    assert keys["resume_from"] == f"{tmp_path}/members/01/gen_02@last"
    assert set(keys["restore.parts"]) >= {"params", "opt_state", "progress", "key"}
    first = task.spec(Plan(2, 0, {"learning_rate": 5e-4}), {}).overrides
    assert "resume_from" not in first  # that of the config, if any, is for the first generation
    assert first["stop_at_epoch"] == 2


def kill_at_random(task, rng, kills):
    """Three programs train the population, while they and its members are killed."""
    fork = multiprocessing.get_context("fork")

    def drive():
        with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
            trained(task)

    drivers = []
    deadline = time.monotonic() + 120
    while True:
        drivers = [driver for driver in drivers if driver.is_alive()]
        with storage_of(task) as storage:
            records = storage.trials()
        if len(records) == 16 and all(record.state.has_ended for record in records):
            break
        while len(drivers) < 3:
            drivers.append(fork.Process(target=drive))
            drivers[-1].start()
        time.sleep(rng.uniform(0.0, 0.15))
        assert time.monotonic() < deadline
        if kills:
            kills -= 1
            victims = [driver.pid for driver in drivers if driver.is_alive()]
            for path in task.workdir.glob("members/*/*/trial.json"):
                with contextlib.suppress(ValueError, KeyError, FileNotFoundError):
                    child = json.loads(path.read_text())["child"]["number"]
                    if b"pretend_member" in open_quietly(f"/proc/{child}/cmdline"):
                        victims.append(child)
            if victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
    for driver in drivers:
        driver.join(30)
        assert driver.exitcode in (0, -signal.SIGKILL)
    return kills


def open_quietly(path):
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def test_killed_programs_and_members_change_no_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_SECONDS", "0.02")
    undisturbed = task_in(tmp_path / "undisturbed")
    expected = result_of(undisturbed, trained(undisturbed))
    killed = task_in(tmp_path / "killed")
    left = kill_at_random(killed, random.Random(3), 12)
    assert left < 12 - 4  # it was disturbed
    with storage_of(killed) as storage:
        records = storage.trials()
    assert result_of(killed, records) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_more_kills_change_no_bit(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("PRETEND_SECONDS", "0.04")
    undisturbed = task_in(tmp_path / "undisturbed", keep=2)
    expected = result_of(undisturbed, trained(undisturbed))
    killed = task_in(tmp_path / "killed", keep=2)
    assert kill_at_random(killed, random.Random(seed), 50) < 30
    with storage_of(killed) as storage:
        records = storage.trials()
    assert result_of(killed, records) == expected


def test_a_member_that_diverges_is_the_worst_and_exploits(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_LIMIT", "1e-3")
    task = task_in(tmp_path, generations=2)
    records = trained(task)
    failed = [r for r in records[:4] if r.params["learning_rate"] > 1e-3]
    assert failed
    for record in failed:
        assert (record.state, record.value) == (State.FAILED, None)
        assert record.result["note"] == "At step 7 the loss is nan."
        plan = plan_of(records[4 + record.number])
        assert plan.exploits
        assert records[plan.parent].state is State.COMPLETE


def test_a_population_in_which_all_fail_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_LIMIT", "1e-9")
    with pytest.raises(PopulationError, match="No member of generation 0 has a result"):
        trained(task_in(tmp_path, members=2))


def checkpoints(task):
    return {
        (folder.parent.parent.name, folder.parent.name)
        for folder in task.workdir.glob("members/*/*/checkpoints")
    }


def test_only_the_newest_and_the_best_keep_their_checkpoints(tmp_path):
    task = task_in(tmp_path, keep=2)
    records = trained(task)
    best = sorted(records, key=lambda record: record.value)[:2]
    assert all(plan_of(record).generation == 3 for record in best)
    assert checkpoints(task) == {(f"{member:02}", "gen_03") for member in range(4)}
    assert len(list(tmp_path.glob("members/*/*/metrics.jsonl"))) == 16  # the rows stay
    assert not list(tmp_path.glob("members/*/*/checkpoints.removed"))


def test_what_a_member_starts_from_is_never_removed(tmp_path, monkeypatch):
    """Each removal is watched: at that time, no trial that has not ended starts from it."""
    task, removed = task_in(tmp_path, keep=1), []

    def remove(folder):
        with storage_of(task) as storage:
            records = storage.trials()
        for record in records:
            plan = plan_of(record)
            if not record.state.has_ended and plan.parent is not None:
                assert folder != task.folder(plan.generation - 1, plan.parent)
        if (folder / "checkpoints").exists():
            removed.append(folder.name)
        population_run.shutil.rmtree(folder / "checkpoints", ignore_errors=True)

    monkeypatch.setattr(population_run, "remove_checkpoints", remove)
    records = trained(task, slots=1)
    assert [record.state for record in records] == [State.COMPLETE] * 16
    assert set(removed) == {"gen_00", "gen_01", "gen_02"}


def test_a_request_to_stop_saves_and_the_same_command_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_SECONDS", "0.05")
    undisturbed = task_in(tmp_path / "undisturbed", members=2, generations=2)
    expected = result_of(undisturbed, trained(undisturbed))
    task, stop = task_in(tmp_path / "stopped", members=2, generations=2), threading.Event()
    with storage_of(task) as storage:
        driver = PopulationDriver(task, storage, [{}], lambda line: stop.set())
        records = driver.run(stop)
    assert {record.state for record in records} == {State.COMPLETE, State.WAITING}
    assert result_of(task, trained(task)) == expected
