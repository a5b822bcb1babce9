"""A finished run with `save_last=False` that is started again."""

import json

import pytest
from etils import epath
from helpers.states import begin, changed, epochs, make_config, save_run, shapes_of

from clac_jax.checkpoint.finished import FINISHED_FILE, mark_finished, read_finished
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.training.progress import RunProgress

END = RunProgress(step=30, epoch=3, examples_seen=300, best_value=0.2, best_step=20)


def options(**changes):
    end = {"max_epochs": 3, "checkpoint__save_last": False, "checkpoint__save_top_k": 1}
    return changed(**(end | changes))


@pytest.fixture
def finished(tmp_path):
    """The workdir of a run of 3 epochs of 10 steps, the second of which was the best."""
    config = options()
    arrays = save_run(tmp_path, epochs(0.5, 0.2, 0.4), config)[30]
    checkpoints = Checkpoints(tmp_path, config, shapes_of(arrays), 100)
    checkpoints.end(END, tested_step=20)
    checkpoints.close()
    return tmp_path


def kept(workdir):
    return set(read_all(epath.Path(workdir) / "checkpoints")[0])


def test_it_has_ended_and_says_so(finished):
    assert kept(finished) == {20}
    start = begin(finished, options())
    assert (start.progress, int(start.arrays["step"])) == (END, 20)
    assert start.origin.startswith("this run has ended; its checkpoint of step 30 is gone")


def test_with_more_epochs_it_continues_from_what_is_left_and_says_so(finished):
    start = begin(finished, options(max_epochs=4))
    assert start.progress.step == 20
    assert "checkpoints/20 (epoch 2" in start.origin
    assert any("checkpoint of step 30 is gone" in note for note in start.notes)


def test_a_run_that_keeps_its_last_checkpoint_needs_no_mark(tmp_path):
    arrays = save_run(tmp_path, epochs(0.5, 0.2, 0.4))[30]
    checkpoints = Checkpoints(tmp_path, make_config(), shapes_of(arrays), 100)
    checkpoints.end(END, tested_step=20)
    checkpoints.close()
    assert not (tmp_path / FINISHED_FILE).exists()


def test_a_mark_from_a_different_time_is_ignored(finished):
    own = read_all(epath.Path(finished) / "checkpoints")[0]
    assert read_finished(finished, own) == END
    assert read_finished(finished, {}) is None
    # The run was trained again in the same folder, and stopped at the same step.
    save_run(finished, {20: epochs(0.5, 0.2)[20]}, options())
    assert read_finished(finished, read_all(epath.Path(finished) / "checkpoints")[0]) is None
    assert begin(finished, options()).progress.step == 20


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        '{"progress": 1}',
        '{"progress": {"step": 30, "epoch": "x"}}',
        '{"progress": {}}',
        '{"progress": {"a": 1}, "newest": [20, 0]}',
        "\0",
    ],
)
def test_a_mark_that_cannot_be_read_means_nothing(finished, content):
    (finished / FINISHED_FILE).write_text(content)
    assert begin(finished, options()).progress.step == 20


def test_a_kill_between_the_mark_and_the_removal_loses_nothing(tmp_path):
    save_run(tmp_path, epochs(0.5, 0.2, 0.4), options())
    own = read_all(epath.Path(tmp_path) / "checkpoints")[0]
    mark_finished(tmp_path, END, own[20])
    assert json.loads((tmp_path / FINISHED_FILE).read_text())["newest"][0] == 20
    start = begin(tmp_path, options())
    assert (start.progress.step, int(start.arrays["step"])) == (30, 30)
    assert start.origin.startswith("resumed from its checkpoint")
