"""Sweeps over a PostgreSQL server: `make test-postgres`."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from helpers.killed_sweeps import run_killed
from helpers.paths import ROOT
from helpers.population_program import storage_in, train_quickly
from helpers.postgres import PASSWORD, postgres_server
from helpers.pretend_member import newest
from helpers.sweep_program import drive_quickly, programs

from clac_jax.sweeps import choice, log
from clac_jax.sweeps.database import StorageError
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.opened import folder_of, note, place_of
from clac_jax.sweeps.population_run import plan_of
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.storage import LostLeaseError, State, Storage, TrialRecord

pytestmark = pytest.mark.postgres

TRIALS, KILLS, PROGRAMS = 16, 20, 3
SWEEP = Definition(
    config="smoke",
    space={"x": log(1e-4, 1.0), "schedule": choice("constant", "cosine")},
    overrides={"max_epochs": 4},
    monitor="val_loss",
    mode="min",
    sampler={"name": "tpe", "startup_trials": 4},
    prune={"name": "median", "startup_trials": 3},
    budget={"trials": TRIALS},
    parallel=3,
    keep_checkpoints=0,
)


@pytest.fixture(scope="module")
def url():
    with postgres_server() as address:
        yield address


def results(url, name):
    with Storage(url, name) as storage:
        return [(t.number, t.params, t.state, t.value, t.values) for t in storage.trials()]


def test_killed_programs_on_postgres_give_what_one_gives_on_sqlite(url, tmp_path):
    context, found = programs(), []
    for name, kills, number in (("one", 0, 1), ("three", KILLS, PROGRAMS)):
        workdir = tmp_path / name
        workdir.mkdir()
        address = url if kills else f"sqlite:///{workdir / 'sweep.db'}"
        arguments = (SWEEP.to_plain(), address, str(workdir), {"PRETEND_SECONDS": "0.05"})

        def begin(arguments=arguments):
            process = context.Process(target=drive_quickly, args=arguments)
            process.start()
            return process

        run_killed(begin, workdir, kills, number, pauses=(0.01, 0.12))
        found.append(results(address, "lr"))
    assert found[0] == found[1] and len(found[0]) == TRIALS


POPULATION = Definition(
    config="smoke",
    space={"learning_rate": log(1e-5, 1e-1)},
    monitor="val_loss",
    mode="min",
    population={
        "members": 4,
        "generations": 3,
        "epochs": 2,
        "exploit": 0.25,
        "explore": {"learning_rate": (0.5, 2.0)},
    },
    keep_checkpoints=0,
)


def test_a_killed_population_on_postgres_gives_what_one_program_gives_on_sqlite(
    url, tmp_path, monkeypatch
):
    monkeypatch.setenv("PRETEND_SECONDS", "0.02")
    context, found = programs(), []
    for name, kills, number in (("one", 0, 1), ("three", 8, 3)):
        workdir = tmp_path / name
        workdir.mkdir()
        arguments = (POPULATION.to_plain(), workdir, url if kills else "")

        def begin(arguments=arguments):
            process = context.Process(target=train_quickly, args=arguments)
            process.start()
            return process

        run_killed(begin, workdir, kills, number, pauses=(0.01, 0.1))
        with storage_in(workdir, arguments[2]) as storage:
            trials = storage.trials()
        assert len(trials) == 12 and any(plan_of(trial).exploits for trial in trials)
        states = [newest(folder_of(workdir, trial)) for trial in trials]
        found.append(([(t.number, t.extra, t.state, t.value, t.values) for t in trials], states))
    assert found[0] == found[1]


TOGETHER = """
import sys
from clac_jax.sweeps.storage import Storage
sys.stdin.readline()
with Storage(sys.argv[1], "new") as stored:
    stored.define({"by": sys.argv[2]})
    print(stored.definition()["by"])
"""


def test_four_programs_make_the_tables_together(url):
    with Storage(url, "lr") as storage, storage._engine.begin() as connection:
        for table in ("clac_sweeps", "clac_trials"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = [
        subprocess.Popen([sys.executable, "-c", TOGETHER, url, str(n)], env=environment, **pipes)
        for n in range(4)
    ]
    for program in running:
        program.stdin.write("\n")
        program.stdin.flush()
    said = {program.communicate(timeout=60)[0] for program in running}
    assert len(said) == 1 and all(program.returncode == 0 for program in running)


def test_a_lost_lease_writes_nothing(url):
    me = name_of(os.getpid())
    with Storage(url, "leases") as storage:
        storage.add(TrialRecord(0, {}))
        old, new = (storage.claim(storage.trial(0), me) for _ in range(2))
        with pytest.raises(LostLeaseError):
            storage.finish(old, State.FAILED, {})
        storage.finish(new, State.COMPLETE, {"value": 1.0})
        assert storage.trial(0).value == 1.0


def test_a_password_is_in_no_file_and_no_message(url, tmp_path, monkeypatch):
    place = place_of(tmp_path, url, "secrets")
    with place.open() as storage:
        note(place, storage)
        assert PASSWORD not in storage.shown
    kept = (tmp_path / "sweep.json").read_text()
    assert PASSWORD not in kept and json.loads(kept)["name"] == "secrets"
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    with place_of(tmp_path).open() as storage:
        assert storage.trials() == []
    monkeypatch.setenv("PGPASSWORD", "wrong-one")
    with pytest.raises(StorageError, match="password authentication failed") as raised:
        place_of(tmp_path).open()
    assert "wrong-one" not in str(raised.value)
    wrong = dataclasses.replace(place, url=url.replace(PASSWORD, "wrong-two"))
    with pytest.raises(StorageError) as raised:
        wrong.open()
    assert "wrong-two" not in str(raised.value)
