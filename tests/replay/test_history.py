"""The records of a run."""

import dataclasses

import numpy as np
import pytest
from helpers.states import epochs, make_config, save_run

from clac_jax.config.schema import to_plain
from clac_jax.journal.journal_file import JournalFile
from clac_jax.journal.record import StepRecord
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import read_history


def record(step, start):
    return StepRecord(step, 0, start, loss=1.0, grad_norm=2.0, learning_rate=0.1)


@pytest.fixture
def workdir(tmp_path):
    """A journal of two starts; a third began where the second did, after a kill."""
    config = to_plain(make_config())
    for step, rate, last in ((0, 0.1, 4), (2, 0.2, 5), (2, 0.3, 6)):
        journal = JournalFile(tmp_path, step)
        journal.write_event("start", step, {"config": {**config, "learning_rate": rate}})
        for number in range(step + 1, last + 1):
            journal.write(record(number, journal.start))
        journal.close()
    return tmp_path


def test_each_step_has_the_config_of_the_start_that_did_it(workdir):
    history = read_history(str(workdir))
    assert history.last_step == 6
    rates = [history.config_of(step).learning_rate for step in range(1, 7)]
    assert rates == [0.1, 0.1, 0.3, 0.3, 0.3, 0.3]
    for step in (0, 7):
        with pytest.raises(ReplayError, match="Name a step from 1 to 6"):
            history.start_of(step)


def test_a_step_before_the_journal_is_refused(workdir):
    history = read_history(str(workdir))
    later = dataclasses.replace(history, starts=history.starts[1:])
    with pytest.raises(ReplayError, match="begins at step 3, so it is unknown how step 2 was"):
        later.start_of(2)


def test_a_run_without_a_journal_goes_by_its_checkpoints(tmp_path):
    save_run(tmp_path, epochs(1.0, 0.5, 0.7))
    history = read_history(str(tmp_path))
    assert [start.step for start in history.starts] == [0, 10, 20]
    assert [info.step for info in history.before(30)] == [20, 10]
    assert history.digests(10) == {}
    assert len(history.journal.steps) == 0


def test_changed_data_are_named_by_their_fingerprints(tmp_path):
    save_run(tmp_path, epochs(1.0), data={"train": "a" * 32})
    history = read_history(str(tmp_path))
    (start,) = history.starts
    history.check_data(start, "a" * 32)
    with pytest.raises(ReplayError, match=f"was {'a' * 32} and is {'b' * 32}"):
        history.check_data(start, "b" * 32)


def test_an_empty_folder_is_not_a_run(tmp_path):
    with pytest.raises(ReplayError, match="neither a journal nor a checkpoint"):
        read_history(str(tmp_path))
    np.testing.assert_equal(list(tmp_path.iterdir()), [])
