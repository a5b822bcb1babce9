"""Where two runs part: which step, array and element, and why."""

import dataclasses
import shutil

import numpy as np
import pytest
from etils import epath
from helpers.replayed_runs import blank_pictures, tiny_config, train_with_flipped_bit
from helpers.states import shapes_of

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import CHECKPOINTS, read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.journal.journal_file import Journal
from clac_jax.replay.bisection import bisect
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import read_history
from clac_jax.replay.suspects import suspects
from clac_jax.training_run import train

KERNEL = ("cross_head", "left", "hidden", "kernel")


@pytest.fixture
def patch():
    with pytest.MonkeyPatch.context() as active:
        blank_pictures(active)
        yield active


def compared(left, right, scratch):
    return bisect(read_history(str(left)), read_history(str(right)), scratch)


def test_a_run_is_equal_to_itself(run, tmp_path):
    found = compared(run, run, tmp_path)
    assert (found.step, found.compared) == (None, 4)
    assert found.lines() == ["equal     all 4 steps that both have, to step 4"]


def test_a_run_without_a_journal_cannot_be_compared(run, tmp_path):
    history = read_history(str(run))
    empty = Journal(history.journal.steps[:0], [])
    with pytest.raises(ReplayError, match=r"has no journal.*ckpt diff"):
        bisect(history, dataclasses.replace(history, journal=empty), tmp_path)


@pytest.mark.parametrize(
    ("stage", "first"), [("ids", "batch_size"), ("loss", "projection_dim"), ("params", "schedule")]
)
def test_suspects_are_sorted_by_what_they_can_explain(run, stage, first):
    left = read_history(str(run))
    (start,) = left.starts
    changes = {"batch_size": 2, "projection_dim": 8, "schedule": "cosine", "log_every_n_steps": 9}
    changed = dataclasses.replace(start, config={**start.config, **changes})
    found = suspects(left, dataclasses.replace(left, starts=[changed]), 3, stage)
    names = [suspect.name for suspect in found]
    assert names[0] == first
    assert set(names) == changes.keys() - {"log_every_n_steps"}  # which changes no bit


@pytest.mark.slow
def test_a_bit_that_flipped_in_memory_is_located(run, data_dir, tmp_path, patch):
    other, config = tmp_path / "other", tiny_config(data_dir)
    train_with_flipped_bit(patch, config, other, (3, KERNEL, 37, 12))
    found = compared(run, other, tmp_path / "scratch")
    assert (found.step, found.parting) == (3, ["params"])
    assert found.arrays == found.before == found.suspects == []
    assert found.irreproducible == {str(other): ["params"]}
    ((path, element),) = found.flipped[str(other)]["params"]
    assert (path, element.bits) == ("params/" + "/".join(KERNEL), 1)
    assert int(np.ravel_multi_index(element.index, (16, 16))) == 37
    assert "a fault of the machine" in "\n".join(found.lines())


@pytest.mark.slow
def test_a_bit_changed_in_a_checkpoint_is_located(run, data_dir, tmp_path, patch):
    other = tmp_path / "other"
    shutil.copytree(run, other)
    folder = epath.Path(other) / CHECKPOINTS
    info = read_all(folder)[0][4]
    arrays = dict(read_arrays(info, info.leaves))
    path = "params/" + "/".join(KERNEL)
    arrays[path] = arrays[path].copy()
    arrays[path].reshape(-1).view(np.uint32)[5] ^= np.uint32(1 << 9)
    shutil.rmtree(folder)
    config = tiny_config(data_dir, max_epochs=2)
    saved = Checkpoints(other, config, shapes_of(arrays), info.num_train_examples, data=info.data)
    saved.save(arrays, info.progress, info.metrics)
    saved.close()
    longer = tmp_path / "longer"
    shutil.copytree(run, longer)
    for workdir in (longer, other):
        train(config, workdir)
    found = compared(longer, other, tmp_path / "scratch")
    assert (found.step, found.parting[0]) == (5, "loss")
    (array,) = found.checkpoints[str(other)]
    assert (array.path, array.count, array.elements[0].index) == (path, 1, (0, 5))
    assert list(found.irreproducible) == [str(other)]


@pytest.mark.slow
def test_a_changed_key_is_the_suspect(run, data_dir, tmp_path, patch):
    other = tmp_path / "other"
    train(tiny_config(data_dir, learning_rate=1e-3, eval_batch_size=8), other)
    found = compared(run, other, tmp_path / "scratch")
    assert (found.step, found.parting[0]) == (1, "params")
    assert found.before == [] and found.irreproducible == {}
    assert [each.name for each in found.suspects] == ["learning_rate"]
    largest = max(found.arrays, key=lambda each: each.largest)
    assert largest.path.startswith("params/") and largest.elements[0].ulps == largest.largest
    assert "by their configs" in "\n".join(found.lines())
