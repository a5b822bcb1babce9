"""A program of a sweep: what it runs, when it stops, and what it says of failures."""

import dataclasses
import os
import threading
import time
from pathlib import Path

import pytest
from helpers.frozen_states import save_states, state_at
from helpers.sweep_program import PRETEND, be_quick, drive

from clac_jax.config.schema import to_plain
from clac_jax.config.shipped import config_named
from clac_jax.errors import WorkdirError
from clac_jax.healing.errors import FaultyMachineError
from clac_jax.sweeps import choice, devices, driver, opened, trial_run
from clac_jax.sweeps.database import StorageError, UnreachableStorageError
from clac_jax.sweeps.definition import Definition, SweepFileError
from clac_jax.sweeps.devices import DevicesError, slots
from clac_jax.sweeps.disk import remove_checkpoints
from clac_jax.sweeps.driver import Driver, FailedSweepError, Program
from clac_jax.sweeps.opened import note, place_of, prepared, trial_folder
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.storage import State, Storage
from clac_jax.sweeps.study_view import revived

SWEEP = Definition(
    config="smoke",
    space={"x": choice(1, 2, 3, 4, 5, 6)},
    overrides={"max_epochs": 4},
    monitor="val_loss",
    mode="min",
    sampler={"name": "grid"},
    parallel=2,
    keep_checkpoints=0,
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for module, names in (
        (trial_run, ("POLL_SECONDS", "PAUSE_SECONDS")),
        (driver, ("POLL_SECONDS", "LOOK_SECONDS", "BEAT_SECONDS")),
    ):
        for name in names:  # put back after the test
            monkeypatch.setattr(module, name, getattr(module, name))
    be_quick()


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'sweep.db'}"


@pytest.fixture
def swept(url, tmp_path, monkeypatch):
    """(changes of the sweep, environment) -> (whether it is finished, its trials)."""

    def run(environment=None, stop=None, **changes):
        for name, value in (environment or {}).items():
            monkeypatch.setenv(name, value)
        definition = dataclasses.replace(SWEEP, **changes)
        finished = drive(definition.to_plain(), url, tmp_path, stop=stop)
        with Storage(url, "lr") as storage:
            return finished, storage.trials()

    return run


def said(tmp_path):
    return "".join(path.read_text() for path in sorted(tmp_path.glob("program-*.txt")))


def checkpoints(tmp_path):
    return {path.parent.name for path in tmp_path.glob("trials/*/checkpoints")}


def test_a_sweep_runs_to_its_end_and_the_best_trials_keep_their_checkpoints(swept, tmp_path):
    finished, trials = swept(keep_checkpoints=2)
    assert finished and len(trials) == 6
    assert all(trial.state is State.COMPLETE and len(trial.values) == 4 for trial in trials)
    best = sorted(trials, key=lambda trial: trial.value)[:2]
    assert checkpoints(tmp_path) == {f"{trial.number:04}" for trial in best}
    assert said(tmp_path).count("checkpoints removed") == 4
    assert swept(keep_checkpoints=2) == (True, trials), "nothing runs again"


def test_files_that_are_linked_elsewhere_do_not_count_as_freed(tmp_path):
    folder = tmp_path / "run" / "checkpoints" / "1"
    folder.mkdir(parents=True)
    (folder / "own").write_bytes(b"x" * 1000)
    (folder / "shared").write_bytes(b"x" * 5000)
    os.link(folder / "own", folder / "own_again")
    os.link(folder / "shared", tmp_path / "elsewhere")
    assert remove_checkpoints(tmp_path / "run") == 1000
    assert (tmp_path / "elsewhere").stat().st_size == 5000


def test_the_common_store_loses_the_files_that_no_checkpoint_has(tmp_path):
    store = tmp_path / "store"
    for name, frozen in (("a", 0), ("b", 0), ("c", 1)):
        states = {step: state_at(step, frozen=frozen) for step in (1, 2)}
        save_states(tmp_path / name, states, store=str(store))
    assert len(os.listdir(store)) == 2
    remove_checkpoints(tmp_path / "c")
    assert len(os.listdir(store)) == 1
    remove_checkpoints(tmp_path / "a")
    assert len(os.listdir(store)) == 1, "another trial has it"
    remove_checkpoints(tmp_path / "b")
    assert os.listdir(store) == []


def test_a_program_that_is_asked_to_stop_saves_its_trials_and_another_continues(swept, tmp_path):
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    finished, trials = swept({"PRETEND_SECONDS": "0.3"}, stop)
    assert not finished
    assert {trial.state for trial in trials} <= {State.WAITING, State.COMPLETE}
    assert "saved, and can be continued" in said(tmp_path)
    finished, trials = swept({"PRETEND_SECONDS": "0"})
    assert finished and all(trial.value is not None for trial in trials)


def test_sweep_stop_reaches_every_program(swept, url, tmp_path):
    def ask():
        with Storage(url, "lr") as storage:
            storage.define({})
            storage.ask_all_to_stop()

    with Storage(url, "lr") as storage:
        storage.define({})
    threading.Timer(0.5, ask).start()
    finished, _ = swept({"PRETEND_SECONDS": "0.3"})
    assert not finished and "`clac-jax sweep stop`" in said(tmp_path)


def test_a_failed_trial_does_not_stop_the_sweep(swept):
    finished, trials = swept({"PRETEND_FAULT": "x=3:2"})
    assert finished
    [failed] = [trial for trial in trials if trial.state is State.FAILED]
    assert failed.params == {"x": 3}
    assert failed.result["note"] == "exit code 2: x=3 cannot be used."
    assert failed.result["lines"][-1] == "error: x=3 cannot be used."


@pytest.mark.parametrize(
    "row",
    [
        '{"split": "val", "step": 1, @@}',
        '{"split": "val", "step": "1", "epoch": 0, "val_loss": 1.0}',
        '{"split": "val", "step": Infinity, "epoch": 0, "val_loss": 1.0}',
        '{"split": "val", "step": 1, "epoch": -1, "val_loss": 1.0}',
        '{"split": "val", "step": 1, "epoch": 0}',
        '{"split": "val", "step": 1, "epoch": 0, "val_loss": null}',
    ],
)
def test_a_row_that_cannot_be_read_fails_its_trial_and_no_other(swept, tmp_path, row):
    folder = trial_folder(tmp_path, 2)
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(row + "\n")
    finished, trials = swept()
    assert finished
    assert [trial.number for trial in trials if trial.state is not State.COMPLETE] == [2]
    assert trials[2].state is State.FAILED and "Fix or remove that line" in trials[2].result["note"]


def test_a_program_that_an_error_ends_gives_its_trials_back(swept, url, monkeypatch):
    calls, original = [], Storage.trials

    def trials(self):
        calls.append(1)
        if len(calls) > 6:
            raise StorageError("The database x is damaged.")
        return original(self)

    with monkeypatch.context() as patched, pytest.raises(StorageError, match="is damaged"):
        patched.setattr(Storage, "trials", trials)
        swept({"PRETEND_SECONDS": "0.5"})
    with Storage(url, "lr") as storage:
        assert {trial.state for trial in storage.trials()} == {State.WAITING}


def test_several_failures_in_a_row_stop_the_sweep(swept, url):
    with pytest.raises(FailedSweepError, match=r"The last \d trials have failed; .* a crash"):
        swept({"PRETEND_FAULT": "start"})
    with Storage(url, "lr") as storage:
        states = [trial.state for trial in storage.trials()]
    assert driver.FAILURES <= states.count(State.FAILED) < 6
    # What was wrong has been corrected: the failures before this start do not count.
    assert swept({"PRETEND_FAULT": ""})[0]


def test_a_machine_that_computes_wrongly_stops_and_gives_its_trials_back(swept, url):
    with pytest.raises(FaultyMachineError, match="does not repeat its results"):
        swept({"PRETEND_FAULT": "x=3:77"})
    with Storage(url, "lr") as storage:
        [trial] = [trial for trial in storage.trials() if trial.params == {"x": 3}]
    assert trial.state is State.WAITING


@pytest.mark.parametrize(
    "reason",
    [
        "Cannot write metrics.jsonl: No space left on device.",
        "A checkpoint takes 9 MB, and x has 1 MB free. Free some space there.",
    ],
)
def test_a_full_disk_stops_the_sweep_and_fails_no_trial(swept, url, monkeypatch, reason):
    monkeypatch.setenv("PRETEND_REASON", reason)
    with pytest.raises(WorkdirError, match=r"has no space left: .* the same command continues"):
        swept({"PRETEND_FAULT": "x=3:2"})
    with Storage(url, "lr") as storage:
        [trial] = [trial for trial in storage.trials() if trial.params == {"x": 3}]
    assert trial.state is State.WAITING
    # With space again, another error that comes after this one is that trial's failure.
    monkeypatch.delenv("PRETEND_REASON")
    finished, trials = swept()
    assert finished and [t.params["x"] for t in trials if t.state is State.FAILED] == [3]


def test_hours_limit_a_sweep(swept, url):
    finished, trials = swept(sampler={"name": "random"}, budget={"hours": 1e-9})
    assert finished and 1 <= len(trials) <= 2  # those that had started


def test_a_larger_budget_continues_a_sweep(swept):
    changes = {"sampler": {"name": "random"}}
    _, first = swept(budget={"trials": 2}, **changes)
    finished, second = swept(budget={"trials": 4}, **changes)
    assert finished and len(second) == 4 and second[:2] == first


def test_a_trial_is_pruned_on_request_and_revived(swept, url):
    sampler, budget = {"name": "random"}, {"trials": 1}

    def prune():
        with Storage(url, "lr") as storage:
            storage.ask(0, "prune")

    threading.Timer(0.6, prune).start()
    _, [trial] = swept({"PRETEND_SECONDS": "0.3"}, sampler=sampler, budget=budget)
    assert trial.state is State.PRUNED and len(trial.values) < 4
    assert trial.result["note"] == "on request"
    with Storage(url, "lr") as storage:
        assert storage.revive(trial, revived(trial))
    _, [trial] = swept({"PRETEND_SECONDS": "0"}, sampler=sampler, budget=budget)
    assert trial.state is State.COMPLETE and len(trial.values) == 4


def test_a_program_whose_trial_was_taken_kills_its_child_and_writes_nothing(
    url, tmp_path, monkeypatch
):
    """As after it was suspended: the new holder is another machine's."""
    monkeypatch.setenv("PRETEND_SECONDS", "0.5")
    definition = dataclasses.replace(SWEEP, sampler={"name": "random"}, budget={"trials": 1})
    stop = threading.Event()
    away = dataclasses.replace(name_of(os.getpid()), machine="another")
    with Storage(url, "lr") as storage:
        program = Driver(definition, storage, Program(tmp_path, ({},), PRETEND, lambda text: None))

        def take():
            with Storage(url, "lr") as other:
                running: list = []
                # Again if the holder has renewed its lease in the meantime.
                while not running or not other.claim(running[0], away):
                    time.sleep(0.02)
                    running = [t for t in other.trials() if t.state is State.RUNNING]
            threading.Timer(0.6, stop.set).start()

        threading.Thread(target=take, daemon=True).start()
        assert program.run(stop) is False
        [trial] = storage.trials()
    assert (trial.state, trial.holder, trial.fence) == (State.RUNNING, away, 2)


def test_a_database_that_is_away_for_a_while_is_waited_for(swept, monkeypatch, capsys):
    calls, original = [], Storage.trials

    def trials(self):
        calls.append(1)
        if 3 < len(calls) < 8:
            raise UnreachableStorageError("The database x cannot be used: no answer.")
        return original(self)

    monkeypatch.setattr(Storage, "trials", trials)
    finished, stored = swept()
    assert finished and all(trial.value is not None for trial in stored)
    said = capsys.readouterr().err.count("it is tried again")
    assert 1 <= said <= 4, "not at each of the four attempts, unless they are far apart"


def test_a_changed_file_names_what_changed(url):
    given = dataclasses.replace(SWEEP, file="lr.py")
    with Storage(url, "lr") as storage:
        plain, config = given.to_plain(), to_plain(config_named(given.config))
        storage.define({"file": plain, "complete": plain, "config": config})
        assert prepared(given, storage) == Definition.from_plain(given.to_plain())
        other = dataclasses.replace(given, space={"x": choice(1, 2)}, seed=3)
        with pytest.raises(SweepFileError) as raised:
            prepared(other, storage)
        for text in ("space.x.values: [1, 2, 3, 4, 5, 6] -> [1, 2]", "seed: 0 -> 3", "lr.py"):
            assert text in str(raised.value)
        larger = dataclasses.replace(given, budget={"trials": 9}, keep_checkpoints=1)
        assert prepared(larger, storage).budget == {"trials": 9}
        assert opened.stored_definition(storage).keep_checkpoints == 1


def test_the_workdir_remembers_name_and_database(tmp_path, monkeypatch):
    monkeypatch.delenv("CLAC_SWEEP_STORAGE", raising=False)
    folder = tmp_path / "lr"
    assert place_of(folder).name == "lr"
    place = place_of(folder, f"sqlite:///{tmp_path / 'other.db'}", "mine")
    with place.open() as storage:
        note(place, storage)
    assert place_of(folder) == place


def test_each_trial_has_devices_of_its_own(monkeypatch, tmp_path):
    for name in ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert slots(2, 0) == [{}] and slots(0, 3) == [{}, {}, {}]
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-a")
    assert slots(0, 0) == [{"CUDA_VISIBLE_DEVICES": "4,5,GPU-a"}]
    assert slots(1, 0) == [{"CUDA_VISIBLE_DEVICES": name} for name in ("4", "5", "GPU-a")]
    assert slots(0, 3) == slots(1, 3) and len(slots(1, 2)) == 2
    with pytest.raises(DevicesError, match="2 trials with 2 devices each need 4, and this machine"):
        slots(2, 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(devices, "_DEV", tmp_path)
    for name in ("accel0", "accel1", "accel10", "accelerator"):
        Path(tmp_path / name).touch()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    first, *_ = slots(1, 0)
    assert first == {
        "SLURM_STEP_NUM_TASKS": "1",
        "TPU_VISIBLE_CHIPS": "0",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": "1,1,1",
    }
    assert slots(2, 0)[0]["TPU_VISIBLE_CHIPS"] == "0,1"
    with pytest.raises(DevicesError, match="not 3"):
        slots(3, 0)
    assert trial_folder(tmp_path, 7).name == "0007"
