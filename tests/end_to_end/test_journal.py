"""The journal of a run: every step's digests, whatever else happens; and no other numbers."""

import numpy as np
import pytest
from helpers.small_runs import StopsAt, arrays_at, assert_same
from helpers.workdirs import journal_of

from clac_jax.digests.host import state_digests
from clac_jax.distributed.preemption import Preempted
from clac_jax.journal import journal_file
from clac_jax.journal.journal_file import read_journal
from clac_jax.training_run import train

STATE = ("params", "batch_stats", "opt_state", "counters", "total")


def test_each_record_has_the_digests_of_the_state_that_was_saved(stage1):
    journal = read_journal(stage1)
    assert journal.steps["step"].tolist() == list(range(1, 9))
    assert journal.steps["epoch"].tolist() == [0] * 4 + [1] * 4
    for step in (1, 4, 8):
        expected = state_digests(arrays_at(stage1, step))
        record = journal.at(step)
        assert {name: record.digests[name] for name in STATE} == expected
    (start,) = journal.starts
    assert (start["step"], start["start"]) == (0, 1)
    assert start["config"]["batch_size"] == 4 and start["devices"]["count"] == 1


def test_batches_differ_and_their_digests_with_them(stage1):
    digests = read_journal(stage1).steps["digests"]
    for name in ("ids", "texts", "crystals", "gradients", "loss", *STATE[:1]):
        assert len(np.unique(digests[name], axis=0)) == 8, name


@pytest.mark.slow
def test_with_digests_or_without_the_numbers_are_the_same(
    stage1, small_config, tmp_path, monkeypatch
):
    """Off up to step 3, then on for every second state."""
    with pytest.raises(Preempted):
        train(small_config(journal__digest_every=0), tmp_path, StopsAt(3))
    off = read_journal(tmp_path)
    assert off.steps["step"].tolist() == [1, 2, 3]
    assert not off.steps["present"].any()
    parsed = []
    parse = journal_file.parse
    monkeypatch.setattr(journal_file, "parse", lambda *args: parsed.append(args) or parse(*args))
    train(small_config(journal__digest_every=2), tmp_path)
    assert len(parsed) == 1, "a start reads the journal once"
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))
    journal, expected = read_journal(tmp_path), read_journal(stage1)
    assert journal.steps["start"].tolist() == [1] * 3 + [2] * 5
    for step in range(4, 9):
        found, complete = journal.at(step).digests, expected.at(step).digests
        assert found == {name: complete[name] for name in found}
        assert ("total" in found) == (step % 2 == 0)
        assert "gradients" in found and "crystals" in found
    assert journal_of(tmp_path) == journal_of(stage1)
