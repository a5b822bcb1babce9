"""The origin of a run, as its chain names it."""

import dataclasses
import shutil

import pytest
from helpers.states import epochs, make_config, save_run

from clac_jax.checkpoint.changes import Present
from clac_jax.config.schema import to_plain
from clac_jax.journal.journal_file import NO_JOURNAL
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import History, Start
from clac_jax.replay.parent_run import origin_of, position_after


@pytest.fixture
def parent(tmp_path):
    """A run with checkpoints of steps 10 and 20, which have no records."""
    save_run(tmp_path / "parent", epochs(1.0, 0.5))
    return tmp_path / "parent"


def history(step=0, config=None, **record):
    start = Start(step, to_plain(config or make_config()))
    return History("run", [start], NO_JOURNAL, {}, {}, [], record)


def began_at_10(parent, step=0, digest=None):
    config = make_config()
    config.resume_from = str(parent)
    recorded = {"run": str(parent / "checkpoints" / "10"), "step": 10}
    return history(step, config, parent=digest, origin=recorded)


def test_a_run_without_an_origin_is_fresh():
    assert origin_of(history()).other is None


def test_a_run_whose_first_steps_are_unknown_has_no_known_origin(parent):
    assert origin_of(history(step=10)) is None
    assert origin_of(history(step=10, parent=None, origin={"run": None, "step": 10})) is None
    assert origin_of(began_at_10(parent, step=20)) is None


def test_it_is_the_checkpoint_of_then_though_the_other_run_was_trained_further(parent, tmp_path):
    run = began_at_10(parent, step=10)
    assert origin_of(run).other.step == 10
    config = make_config()
    assert position_after(origin_of(run), Present(config, 100)).step == 10
    config.restore.parts = ("params", "batch_stats")
    assert position_after(origin_of(run), Present(config, 100)).step == 0

    moved = parent.rename(tmp_path / "moved")  # which the name in the config still finds
    config.resume_from = str(moved)
    starts = [Start(10, to_plain(config))]
    found = origin_of(dataclasses.replace(run, starts=starts)).other
    assert str(found.folder) == str(moved / "checkpoints" / "10")


def test_a_config_of_a_different_version_is_named():
    run = history()
    starts = [Start(0, {"warp_drive": True})]
    with pytest.raises(ReplayError, match="is not one of this version of clac_jax"):
        origin_of(dataclasses.replace(run, starts=starts))


def test_a_source_is_taken_at_the_step_of_then(parent):
    config = make_config()
    config.restore.sources = ({"from": str(parent)},)
    recorded = {"run": str(parent), "step": 0, "sources": [{"run": str(parent), "step": 10}]}
    (source,) = origin_of(history(0, config, parent=None, origin=recorded)).sources
    assert source.arrays.info.step == 10


def test_a_checkpoint_that_is_gone_or_was_replaced_is_named(parent):
    with pytest.raises(ReplayError, match=r"began from .*/10, which is a different one now"):
        origin_of(began_at_10(parent, digest="0" * 64))
    shutil.rmtree(parent / "checkpoints" / "10")
    with pytest.raises(ReplayError, match=r"which does not exist any more\. Put it back\."):
        origin_of(began_at_10(parent))
