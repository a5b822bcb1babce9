"""Trials and leases in a database that several programs use at the same time."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from helpers.paths import ROOT
from sqlalchemy import make_url

from clac_jax.sweeps import database, storage
from clac_jax.sweeps.database import StorageError, shown_url, storage_url, without_password
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.storage import (
    Lease,
    LostLeaseError,
    Observer,
    State,
    Storage,
    TrialRecord,
)

ME = name_of(os.getpid())


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path / 'sweep.db'}"


@pytest.fixture
def stored(url):
    with Storage(url, "lr") as opened:
        yield opened


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_leaves_no_file(address, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Storage(address, "lr") as opened:
        assert opened.add(TrialRecord(0, {"x": 0.5}))
    assert list(tmp_path.iterdir()) == []


TOGETHER = """
import os, sys
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.storage import Storage, TrialRecord
import sqlalchemy
print("ready", flush=True)
sys.stdin.readline()
with Storage(sys.argv[1], "lr") as stored:
    stored.define({"from": os.getpid()})
    added = [stored.add(TrialRecord(n, {"x": n})) for n in range(20)]
    claimed = [stored.claim(trial, name_of(os.getpid())) for trial in stored.trials()
               if trial.fence == 0]
    print(stored.definition()["from"], sum(added), len([c for c in claimed if c]))
"""


def test_four_programs_start_on_a_new_database_and_share_its_trials(url):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        for _ in range(4)
    ]
    for program in programs:
        assert program.stdout.readline() == "ready\n"
    for program in programs:
        program.stdin.write("\n")
        program.stdin.flush()
    results = [program.communicate(timeout=60)[0].split() for program in programs]
    assert [program.returncode for program in programs] == [0] * 4
    definers, added, claimed = zip(*results, strict=True)
    assert len(set(definers)) == 1, "all see the same definition"
    assert sum(map(int, added)) == 20 and sum(map(int, claimed)) == 20


def test_a_trial_is_stored_with_its_state(stored):
    assert stored.definition() is None
    assert stored.define({"seed": 1}) == {"seed": 1} == stored.define({"seed": 2})
    trial = TrialRecord(0, {"x": 0.5, "parts": ["a"]}, {"parent": 3})
    assert stored.add(trial) and not stored.add(dataclasses.replace(trial, params={}))
    assert stored.trials() == [trial] and stored.trial(1) is None
    lease = stored.claim(trial, ME)
    assert stored.renew(lease, {"value": 1.5, "values": [[4, 0, 1.5]]}) == ""
    running = stored.trial(0)
    assert (running.state, running.value, running.values) == (State.RUNNING, 1.5, [(4, 0, 1.5)])
    assert running.holder == ME
    stored.ask(0, "prune")
    assert stored.renew(lease, {}) == "prune"
    stored.finish(lease, State.COMPLETE, {"value": 0.5, "values": []})
    ended = stored.trial(0)
    assert (ended.state, ended.value, ended.asked) == (State.COMPLETE, 0.5, "")
    assert stored.claim(ended, ME) is None
    assert stored.revive(ended, {"revived": True}) and not stored.revive(ended, {})
    assert stored.trial(0).state is State.WAITING


def test_only_one_of_two_programs_gets_a_trial(stored):
    stored.add(TrialRecord(0, {}))
    trial = stored.trial(0)
    assert stored.claim(trial, ME) == Lease(0, 1)
    assert stored.claim(trial, ME) is None


def test_a_program_that_wakes_after_its_lease_was_taken_writes_nothing(stored):
    stored.add(TrialRecord(0, {}))
    old = stored.claim(stored.trial(0), ME)
    new = stored.claim(stored.trial(0), ME)
    for write in (
        lambda: stored.renew(old, {"value": 9.0}),
        lambda: stored.finish(old, State.FAILED, {"value": 9.0}),
        lambda: stored.release(old, {"value": 9.0}),
    ):
        with pytest.raises(LostLeaseError, match="Trial 0 was taken"):
            write()
    stored.finish(new, State.COMPLETE, {"value": 1.0})
    with pytest.raises(LostLeaseError):
        stored.finish(old, State.FAILED, {})
    assert stored.trial(0).value == 1.0


def test_a_holder_is_dead_when_its_process_has_ended_or_its_beat_stands_still(stored, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(storage, "elapsed", lambda: now[0])
    observer = Observer(lease_seconds=10)
    ended = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    here, away = name_of(ended.pid), dataclasses.replace(ME, machine="another")
    stored.add(TrialRecord(0, {}))
    stored.add(TrialRecord(1, {}))
    assert observer.is_free(stored.trial(0))
    stored.claim(stored.trial(0), here)
    lease = stored.claim(stored.trial(1), away)
    assert not observer.is_free(stored.trial(0)) and not observer.is_free(stored.trial(1))
    ended.send_signal(signal.SIGKILL)
    ended.wait()
    assert observer.is_free(stored.trial(0)) and not observer.is_free(stored.trial(1))
    now[0] += 9
    stored.renew(lease, {})
    assert not observer.is_free(stored.trial(1))
    now[0] += 9
    assert not observer.is_free(stored.trial(1)), "the beat has moved since"
    now[0] += 2
    assert observer.is_free(stored.trial(1))
    assert not Observer().is_free(stored.trial(1)), "seen for the first time"


def test_sweeps_in_one_database_are_separate(url, stored):
    stored.define({})
    stored.add(TrialRecord(0, {}))
    stored.ask_all_to_stop()
    with Storage(url, "other") as other:
        assert other.trials() == [] and other.stops() == 0 and other.definition() is None
        other.define({})
        assert other.names() == ["lr", "other"] and stored.stops() == 1


def test_a_network_file_system_is_refused_for_sqlite(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("CLAC_SWEEP_STORAGE", raising=False)
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(database, "_MOUNTS", mounts)
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/a\\040b nfs4 rw 0 0\n")
    assert storage_url("", tmp_path) == f"sqlite:///{tmp_path / 'sweep.db'}"
    with pytest.raises(StorageError, match=r"a b/c is on a network file system \(nfs4\)"):
        storage_url("", tmp_path / "a b" / "c")
    assert storage_url("sqlite:////local.db", tmp_path / "a b") == "sqlite:////local.db"
    mounts.write_text(f"x {tmp_path} lustre rw 0 0\n")
    storage_url("", tmp_path)
    assert "shared file system (lustre)" in capsys.readouterr().err
    monkeypatch.setenv("CLAC_SWEEP_STORAGE", "postgresql://h/db")
    assert storage_url("", tmp_path) == "postgresql://h/db"


def test_a_password_is_never_shown():
    url = "postgresql://me:secret@127.0.0.1:1/sweeps?password=secret"
    assert shown_url(url) == "postgresql://me:***@127.0.0.1:1/sweeps"
    assert without_password(make_url(url)) == "postgresql://me@127.0.0.1:1/sweeps"
    assert without_password(make_url("sqlite:////a/b.db")) == "sqlite:////a/b.db"
    with pytest.raises(StorageError, match="cannot be used") as raised:
        Storage(url, "lr")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("is_writable", [True, False])
def test_a_started_sweep_is_read_without_a_trace(url, tmp_path, monkeypatch, is_writable):
    path = tmp_path / "sweep.db"
    path.touch()
    with pytest.raises(StorageError, match=r"No sweep was started in .*: its tables are missing"):
        Storage(url, "lr", is_started=True)
    assert path.stat().st_size == 0 and list(tmp_path.iterdir()) == [path]
    with Storage(url, "lr") as opened:
        opened.add(TrialRecord(0, {"x": 0.5}))
    (tmp_path / ".sweep.db.lock").unlink()
    monkeypatch.setattr(database.os, "access", lambda path, mode: is_writable)
    with Storage(url, "lr", is_started=True) as opened:
        assert [trial.params for trial in opened.trials()] == [{"x": 0.5}]
        assert opened.shown == url
        if is_writable:
            opened.ask(0, "prune")
        else:
            with pytest.raises(StorageError, match=r"whether .* the file can be written"):
                opened.ask(0, "prune")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("url", ["lr.db", "mysql://h/db", "postgresql://h:port/db"])
def test_a_url_that_cannot_be_used_is_one_sentence(url):
    with pytest.raises(StorageError, match="--storage"):
        Storage(url, "lr")


def test_a_file_that_is_not_a_database_is_one_sentence(tmp_path, url):
    (tmp_path / "sweep.db").write_text("not a database, but a text of some length" * 20)
    with pytest.raises(StorageError, match="file is not a database"):
        Storage(url, "lr")
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "sweep.db").execute("SELECT 1 FROM sqlite_master")
