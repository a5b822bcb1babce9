"""steps.journal and starts.jsonl: each step once, cut back at a resume, never lost silently."""

import os

import numpy as np
import pytest

from clac_jax.digests.digest import Digest
from clac_jax.errors import MovedMetricsError, WorkdirError
from clac_jax.journal.journal_file import STARTS_FILE, STEPS_FILE, JournalFile, read_journal
from clac_jax.journal.record import DamagedJournalError, StepRecord


def record(step, start=1, total=0):
    return StepRecord(step, 0, start, 1.0, 2.0, 0.5, {"total": Digest(total or step, 1)})


def write(workdir, step, *steps, resumed=True):
    """One start of a run that resumes at `step` and does more steps."""
    file = JournalFile(workdir, step, resumed)
    file.write_event("start", step, {"host": "here"})
    for each in steps:
        file.write(record(each, file.start))
    file.sync()
    file.close()


def steps_of(workdir):
    return read_journal(workdir).steps["step"].tolist()


def test_a_resumed_journal_has_each_step_once(tmp_path):
    write(tmp_path, 0, 1, 2, 3, 4)
    write(tmp_path, 2, 3, 4, 5)
    journal = read_journal(tmp_path)
    assert journal.steps["step"].tolist() == [1, 2, 3, 4, 5]
    assert journal.steps["start"].tolist() == [1, 1, 2, 2, 2]
    assert [(each["start"], each["step"]) for each in journal.starts] == [(1, 0), (2, 2)]
    assert journal.at(4) == record(4, start=2)
    assert journal.at(6) is None and journal.at(0) is None


def test_a_start_after_the_checkpoint_that_is_resumed_is_dropped(tmp_path):
    write(tmp_path, 0, 1, 2, 3, 4)
    write(tmp_path, 4, 5)
    write(tmp_path, 2, 3)
    assert [(each["start"], each["step"]) for each in read_journal(tmp_path).starts] == [
        (1, 0),
        (2, 2),
    ]
    assert steps_of(tmp_path) == [1, 2, 3]


def test_records_cut_off_by_a_kill_are_dropped(tmp_path):
    write(tmp_path, 0, 1, 2)
    for name in (STEPS_FILE, STARTS_FILE):
        with open(tmp_path / name, "ab") as file:
            file.write(b'{"event": "sta')
    assert steps_of(tmp_path) == [1, 2]
    write(tmp_path, 2, 3)
    assert steps_of(tmp_path) == [1, 2, 3]
    assert len(read_journal(tmp_path).starts) == 2


def test_a_run_without_a_journal_has_an_empty_one(tmp_path, capsys):
    assert steps_of(tmp_path) == [] and read_journal(tmp_path).at(1) is None
    write(tmp_path, 7, 8)  # it began before there were journals
    assert steps_of(tmp_path) == [8]
    assert capsys.readouterr().err == ""


def test_a_missing_journal_is_reported(tmp_path, capsys):
    write(tmp_path, 0, 1, 2)
    os.unlink(tmp_path / STEPS_FILE)
    write(tmp_path, 2, 3)
    assert "the records up to step 2 are missing" in capsys.readouterr().err
    assert steps_of(tmp_path) == [3]


def test_records_of_a_run_without_checkpoints_are_kept_under_another_name(tmp_path, capsys):
    write(tmp_path, 0, 1, 2)
    write(tmp_path, 0, 1, resumed=False)
    assert steps_of(tmp_path) == [1]
    assert "They are kept in steps-1.journal" in capsys.readouterr().err
    assert (tmp_path / "starts-1.jsonl").exists()


def test_damage_is_named_and_nothing_is_lost(tmp_path):
    write(tmp_path, 0, 1, 2, 3)
    path = tmp_path / STEPS_FILE
    content = bytearray(path.read_bytes())
    content[-150] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedJournalError, match=r"steps\.journal, record 2 .* move it away"):
        JournalFile(tmp_path, 3)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", [b"oops", b"[1]", b'{"event": "start", "step": "x", "start": 1}'])
def test_a_line_that_is_not_an_event_is_named(tmp_path, line):
    (tmp_path / STARTS_FILE).write_bytes(line + b"\n")
    with pytest.raises(WorkdirError, match=r"starts\.jsonl, line 1 is not an event"):
        read_journal(tmp_path)


def test_a_folder_instead_of_the_file_is_named(tmp_path):
    (tmp_path / STEPS_FILE).mkdir()
    with pytest.raises(WorkdirError, match="is not a file"):
        JournalFile(tmp_path, 0)


@pytest.mark.parametrize("name", [STEPS_FILE, STARTS_FILE])
def test_a_file_taken_away_during_the_run_is_written_again(tmp_path, name):
    file = JournalFile(tmp_path, 0)
    file.write_event("start", 0, {})
    file.write(record(1))
    (tmp_path / name).unlink()
    with pytest.raises(MovedMetricsError, match="records were written there again"):
        file.sync()
    file.close()
    assert steps_of(tmp_path) == [1] and len(read_journal(tmp_path).starts) == 1


def test_the_steps_are_an_array(tmp_path):
    write(tmp_path, 0, 1, 2)
    steps = read_journal(tmp_path).steps
    np.testing.assert_array_equal(steps["digests"]["total"], [[1, 1], [2, 1]])
    assert steps["learning_rate"].tolist() == [0.5, 0.5]
