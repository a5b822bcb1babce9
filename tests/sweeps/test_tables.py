"""Content of a sweep's database that is damaged: one sentence, which names the trial and helps."""

import os
import sqlite3

import pytest

from clac_jax.sweeps.database import StorageError, UnreachableStorageError
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.storage import Storage, TrialRecord

ADVICE = "Move sweep.db away and start the same sweep file again"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "sweep.db"
    with Storage(f"sqlite:///{path}", "lr") as stored:
        stored.define({"seed": 1})
        for number in range(3):
            stored.add(TrialRecord(number, {"x": number}))
        stored.claim(stored.trial(1), name_of(os.getpid()))
    return path


def damage(path, statement, *values):
    with sqlite3.connect(path) as connection:
        connection.execute(statement, values)
    connection.close()


@pytest.mark.parametrize("column", ["params", "extra", "result", "progress", "holder", "state"])
@pytest.mark.parametrize("content", ["", '{"x": 0.', "[]", "@@", b"\xff\xfe"])
def test_damaged_content_names_its_trial_and_what_helps(path, column, content):
    statement = f"UPDATE clac_trials SET {column} = CAST(? AS TEXT) WHERE number = 1"
    damage(path, statement, content)
    with Storage(f"sqlite:///{path}", "lr") as stored:
        for read in (stored.trials, lambda: stored.trial(1)):
            with pytest.raises(StorageError, match=ADVICE) as raised:
                read()
            assert not isinstance(raised.value, UnreachableStorageError), "a retry does not help"
            assert isinstance(content, bytes) or "trial 1" in str(raised.value)
        assert stored.trial(0).params == {"x": 0}


def test_a_damaged_definition_names_its_sweep(path):
    damage(path, "UPDATE clac_sweeps SET definition = ?", '{"seed"')
    with Storage(f"sqlite:///{path}", "lr") as stored, pytest.raises(StorageError) as raised:
        stored.definition()
    assert "the sweep 'lr'" in str(raised.value) and ADVICE in str(raised.value)


@pytest.mark.parametrize("is_started", [True, False])
def test_a_file_that_is_cut_off_or_random_is_reported_with_what_helps(path, is_started):
    content = path.read_bytes()
    for broken in (content[:5000], os.urandom(8192)):
        path.write_bytes(broken)
        with pytest.raises(StorageError, match=ADVICE):  # noqa: SIM117 (either may raise)
            with Storage(f"sqlite:///{path}", "lr", is_started=is_started) as stored:
                stored.trials()
