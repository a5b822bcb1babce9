"""A population is trained: by one program or several, undisturbed or killed, to the same bits."""

import contextlib
import dataclasses
import os
import random
import shutil
import signal
import threading
import time

import pytest
from helpers.killed_sweeps import living_trials
from helpers.population_program import pauses, started, storage_in, train_quickly, trained
from helpers.pretend_member import after, newest
from helpers.sweep_program import programs

from clac_jax.sweeps import log, population_run, process_name
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.listing import details
from clac_jax.sweeps.opened import folder_of
from clac_jax.sweeps.page import page_of
from clac_jax.sweeps.population import Plan, PopulationError
from clac_jax.sweeps.population_run import overrides_of, plan_of, trial_of
from clac_jax.sweeps.population_settings import population_of
from clac_jax.sweeps.storage import State
from clac_jax.sweeps.stored_view import view_of


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for pause in pauses():
        monkeypatch.setattr(*pause)


def sweep(keep=0, members=4, generations=4):
    explore = {"learning_rate": (0.5, 2.0)}
    settings = {"members": members, "generations": generations, "epochs": 2, "exploit": 0.25}
    return Definition(
        config="smoke",
        space={"learning_rate": log(1e-5, 1e-1)},
        monitor="val_loss",
        mode="min",
        population={**settings, "explore": explore},
        seed=1,
        keep_checkpoints=keep,
    )


def result_of(records, workdir):
    """All that must not depend on who has trained the population, and how."""
    found = {}
    for record in records:
        folder = folder_of(workdir, record)
        states = sorted((folder / "checkpoints").glob("[0-9]*/state.json"), key=str)
        found[record.number] = (
            plan_of(record),
            record.params,
            record.state,
            record.values,
            record.value,
            (folder / "lineage.json").read_text(),
            (folder / "metrics.jsonl").read_text(),
            [(path.parent.name, path.read_text()) for path in states],
        )
    return found


def test_each_member_continues_its_parent_and_the_population_becomes_better(tmp_path):
    records = trained(sweep(), tmp_path)
    assert [record.state for record in records] == [State.COMPLETE] * 16
    plans = [plan_of(record) for record in records]
    places = [(plan.generation, plan.member) for plan in plans]
    assert places == [(generation, member) for generation in range(4) for member in range(4)]
    assert any(plan.exploits for plan in plans)
    for record, plan in zip(records, plans, strict=True):
        epochs = [2 * plan.generation, 2 * plan.generation + 1]
        assert [epoch for _, epoch, _ in record.values] == epochs
        _, state = (
            newest(tmp_path / f"members/{plan.parent:02}/gen_{plan.generation - 1:02}")
            if plan.generation
            else (0, [1.0, 2.0, 3.0, 4.0])
        )
        for epoch in epochs:
            state = after(epoch, state, plan.values["learning_rate"])
        assert newest(folder_of(tmp_path, record)) == (epochs[-1] + 1, state)
    generations = [[r.value for r in records[4 * g : 4 * g + 4]] for g in range(4)]
    assert max(generations[3]) < min(generations[0])


def test_the_keys_of_a_trial_are_those_of_its_plan_with_an_unchanged_schedule(tmp_path):
    definition = dataclasses.replace(sweep(), overrides={"resume_from": "pretrained@best"})
    plan = Plan(2, 3, {"learning_rate": 5e-4}, parent=1)
    population = population_of(definition)
    assert folder_of(tmp_path, trial_of(population, plan)) == tmp_path / "members/02/gen_03"
    keys = overrides_of(definition, population, plan, tmp_path / "members/01/gen_02")
    assert (keys["learning_rate"], keys["max_epochs"], keys["stop_at_epoch"]) == (5e-4, 8, 8)
    assert keys["resume_from"] == f"{tmp_path}/members/01/gen_02@last"
    assert set(keys["restore.parts"]) == {"params", "batch_stats", "opt_state", "key", "progress"}
    first = overrides_of(definition, population, Plan(2, 0, plan.values), None)
    assert (first["resume_from"], first["stop_at_epoch"]) == ("pretrained@best", 2)
    longer = dataclasses.replace(definition, overrides={"max_epochs": 30})
    assert overrides_of(longer, population, plan, tmp_path)["max_epochs"] == 30


def with_kills(definition, workdir, rng, kills):
    """Three programs train a population while they and its members are killed -> the records."""
    context, running, left = programs(), [], kills
    workdir.mkdir()
    deadline = time.monotonic() + 240
    with storage_in(workdir) as storage:
        records = []
        while len(records) < 16 or not all(record.state.has_ended for record in records):
            assert time.monotonic() < deadline
            running = [process for process in running if process.is_alive()]
            while len(running) < 3:
                arguments = (definition.to_plain(), workdir)
                running.append(context.Process(target=train_quickly, args=arguments))
                running[-1].start()
            time.sleep(rng.uniform(0.0, 0.15))
            records = storage.trials()
            victims = [*(process.pid for process in running), *living_trials(workdir)]
            if left and records:
                left -= 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(rng.choice(victims), signal.SIGKILL)
        for process in running:
            process.join(60)
            assert process.exitcode in (0, -signal.SIGKILL)
        assert kills - left >= min(kills // 2, 10)  # fewer where the programs are fast
        return records


def test_killed_programs_and_members_change_no_bit(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_SECONDS", "0.02")
    expected = result_of(trained(sweep(), tmp_path / "calm"), tmp_path / "calm")
    records = with_kills(sweep(), tmp_path / "killed", random.Random(3), 12)
    assert result_of(records, tmp_path / "killed") == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_many_more_kills_change_no_bit(tmp_path, monkeypatch, seed):
    monkeypatch.setenv("PRETEND_SECONDS", "0.04")
    expected = result_of(trained(sweep(keep=2), tmp_path / "calm"), tmp_path / "calm")
    records = with_kills(sweep(keep=2), tmp_path / "killed", random.Random(seed), 50)
    assert result_of(records, tmp_path / "killed") == expected


def test_a_member_that_diverges_is_the_worst_and_exploits(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_LIMIT", "1e-3")
    records = trained(sweep(generations=2), tmp_path)
    failed = [record for record in records[:4] if record.params["learning_rate"] > 1e-3]
    assert failed
    for record in failed:
        assert (record.state, record.value) == (State.FAILED, None)
        assert record.result["note"] == "exit code 2: At step 7 the loss is nan."
        plan = plan_of(records[4 + record.number])
        assert plan.exploits
        assert records[plan.parent].state is State.COMPLETE


def test_a_population_in_which_all_fail_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_LIMIT", "1e-9")
    with pytest.raises(PopulationError, match="No member of generation 0 has a result"):
        trained(sweep(members=5), tmp_path)  # more than may fail one after the other elsewhere


def test_only_the_newest_and_the_best_keep_their_checkpoints(tmp_path, monkeypatch):
    """Each removal is watched: at that time, no trial that has not ended starts from there."""
    removed, original = [], population_run.remove_checkpoints

    def remove(folder):
        with storage_in(tmp_path) as storage:
            records = storage.trials()
        for plan in [plan_of(record) for record in records if not record.state.has_ended]:
            parent = f"members/{plan.parent or 0:02}/gen_{plan.generation - 1:02}"
            assert folder != tmp_path / parent or plan.parent is None
        removed.append(original(folder))
        return removed[-1]

    monkeypatch.setattr(population_run, "remove_checkpoints", remove)
    records = trained(sweep(keep=2), tmp_path)
    assert [record.state for record in records] == [State.COMPLETE] * 16
    best = sorted(records, key=lambda record: record.value)[:2]
    assert all(plan_of(record).generation == 3 for record in best)
    kept = {path.parent for path in tmp_path.glob("members/*/*/checkpoints")}
    assert kept == {tmp_path / f"members/{member:02}/gen_03" for member in range(4)}
    assert len([freed for freed in removed if freed]) == 12
    assert len(list(tmp_path.glob("members/*/*/metrics.jsonl"))) == 16  # the rows stay


def test_a_request_to_stop_saves_and_the_same_command_continues(tmp_path, monkeypatch):
    monkeypatch.setenv("PRETEND_SECONDS", "0.05")
    small, workdir, stop = sweep(members=2, generations=2), tmp_path / "stopped", threading.Event()
    expected = result_of(trained(small, tmp_path / "calm"), tmp_path / "calm")

    def say(line):
        if "complete" in line:
            stop.set()

    with storage_in(workdir) as storage:
        assert not started(small, storage, workdir, say, slots=1).run(stop)
        states = [record.state for record in storage.trials()]
    assert State.COMPLETE in states
    assert len(states) < 4 or State.WAITING in states
    assert result_of(trained(small, workdir), workdir) == expected


def test_a_member_is_left_to_a_machine_that_has_its_parents_last_checkpoint(tmp_path, monkeypatch):
    small, one, two = sweep(members=2, generations=2), tmp_path / "one", tmp_path / "two"
    expected = result_of(trained(small, tmp_path / "calm"), tmp_path / "calm")

    def lines_until(workdir, wanted):
        """The lines that a program says until one with `wanted` was said twice, and the trials."""
        said, stop = [], threading.Event()

        def say(line):
            said.append(line)
            if sum(wanted in each for each in said) == 2:
                stop.set()

        with storage_in(one) as storage:
            started(small, storage, workdir, say).run(stop)
            return said, storage.trials()

    one.mkdir()
    _, trials = lines_until(one, "complete")
    assert [trial.state for trial in trials] == [State.COMPLETE] * 2
    # Another machine, without the first one's disk.
    monkeypatch.setattr(process_name, "_machine", lambda: "another")
    said, trials = lines_until(two, "is left to")
    assert [trial.state for trial in trials[2:]] == [State.WAITING] * 2
    assert all("its last checkpoint is not here" in line for line in said)
    # It has run the parents itself for a while, before the first machine took them.
    shutil.copytree(one, two, ignore=lambda folder, names: {"2"} & {*names})
    _, trials = lines_until(two, "is left to")
    assert [trial.state for trial in trials[2:]] == [State.WAITING] * 2
    # With the same disk.
    shutil.copytree(one, two, dirs_exist_ok=True)
    _, trials = lines_until(two, "complete")
    assert result_of(trials, two) == expected


def test_the_page_and_the_commands_show_the_stored_population(tmp_path):
    definition = sweep(generations=2)
    records = trained(definition, tmp_path)
    plan = next(plan for plan in map(plan_of, records) if plan.exploits)
    shown = details(definition, records[4 + plan.member], tmp_path)
    assert f"\nmember         {plan.member}, generation 1\n" in shown
    assert f"\nexploits       member {plan.parent}: it reached " in shown
    assert "\nchanged        learning_rate " in shown
    view = view_of(definition, records, tmp_path, "pbt")
    assert [trial.number for trial in view.trials] == list(range(8))
    for trial, record in zip(view.trials, records, strict=True):
        plan = plan_of(record)
        assert (trial.member, trial.generation, trial.exploits) == (
            plan.member,
            plan.generation,
            plan.exploits,
        )
        assert trial.parent == (plan.parent if plan.generation else None)
        assert trial.workdir == f"members/{plan.member:02}/gen_{plan.generation:02}"
    assert "8: 8 complete" in page_of(view)
