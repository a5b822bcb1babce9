"""The start of a run: which checkpoint it finds and uses, and its messages."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers.states import assert_same, begin, changed, epochs, fresh_arrays, save_run

from clac_jax.checkpoint import arrays as arrays_module
from clac_jax.checkpoint import layout
from clac_jax.checkpoint.arrays import UnreadableCheckpointError
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.resume import ResumeError
from clac_jax.training.progress import RunProgress


def test_fresh(tmp_path):
    start = begin(tmp_path)
    assert_same(start.arrays, fresh_arrays())
    assert start.progress == RunProgress()
    assert start.origin == "fresh run"


def test_the_newest_of_the_workdir(tmp_path):
    saved = save_run(tmp_path, epochs(0.5, 0.2, 0.4))
    start = begin(tmp_path)
    assert_same(start.arrays, saved[30])
    assert start.progress == epochs(0.5, 0.2, 0.4)[30][0]
    assert not [note for note in start.notes if note.startswith("changed")]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def data_file(folder):
    return max((folder / "state").rglob("d/*"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("damage", [flip, os.remove], ids=["flipped", "removed"])
def test_a_damaged_one_is_passed_over_and_named(tmp_path, damage):
    saved = save_run(tmp_path, epochs(0.5, 0.2))
    path = data_file(tmp_path / "checkpoints" / "20")
    damage(path)
    start = begin(tmp_path)
    assert_same(start.arrays, saved[10])
    assert start.damaged == [20]
    assert any(str(path) in note for note in start.notes)


def test_a_relative_workdir_is_as_good(tmp_path, monkeypatch):
    saved = save_run(tmp_path / "run", epochs(0.5))
    monkeypatch.chdir(tmp_path)
    assert_same(begin(Path("run")).arrays, saved[10])


def test_an_intact_one_that_cannot_be_read_now_is_not_skipped(tmp_path, monkeypatch):
    save_run(tmp_path, epochs(0.5, 0.2))

    def fail(*_):
        raise OSError("Input/output error")

    monkeypatch.setattr(arrays_module, "_read", fail)
    with pytest.raises(UnreadableCheckpointError, match="20/state cannot be read, although its"):
        begin(tmp_path)


def test_without_an_intact_one_it_refuses_and_does_not_start_from_scratch(tmp_path):
    save_run(tmp_path, epochs(0.5))
    path = data_file(tmp_path / "checkpoints" / "10")
    flip(path)
    with pytest.raises(DamagedCheckpointError, match=path.name):
        begin(tmp_path)
    (tmp_path / "checkpoints" / "damaged").mkdir()
    (tmp_path / "checkpoints" / "10").rename(tmp_path / "checkpoints" / "damaged" / "10")
    with pytest.raises(ResumeError, match=r"no checkpoint but those in .*/checkpoints/damaged"):
        begin(tmp_path)
    # The path that the first version of the program used.
    (tmp_path / "checkpoints" / "damaged").rename(tmp_path / "damaged_checkpoints")
    with pytest.raises(ResumeError, match=r"no checkpoint but those in .*/damaged_checkpoints"):
        begin(tmp_path)


def test_must_and_never(tmp_path):
    with pytest.raises(ResumeError, match="'must'"):
        begin(tmp_path / "none", changed(resume="must"))
    save_run(tmp_path / "run", epochs(0.5))
    begin(tmp_path / "run", changed(resume="must"))
    with pytest.raises(ResumeError, match="'never'"):
        begin(tmp_path / "run", changed(resume="never"))
    (tmp_path / "new").mkdir()
    begin(tmp_path / "new", changed(resume="never", resume_from=str(tmp_path / "run")))


def test_another_run_and_then_the_own_checkpoint_wins(tmp_path):
    saved = save_run(tmp_path / "stage1", epochs(0.5, 0.2))
    config = changed(resume_from=f"{tmp_path / 'stage1'}@epoch=0")
    (tmp_path / "stage2").mkdir()
    start = begin(tmp_path / "stage2", config)
    assert_same(start.arrays, saved[10])
    assert (start.progress.step, start.progress.epoch) == (10, 1)
    assert "another run" in start.origin
    own = save_run(tmp_path / "stage2", {50: (RunProgress(step=50, epoch=5), None)})
    start = begin(tmp_path / "stage2", config)
    assert_same(start.arrays, own[50])
    assert "resumed" in start.origin


def test_only_the_parameters_of_another_run_start_at_step_0(tmp_path):
    saved = save_run(tmp_path / "stage1", epochs(0.5))
    (tmp_path / "stage2").mkdir()
    config = changed(resume_from=str(tmp_path / "stage1"), restore__parts=("params",))
    start = begin(tmp_path / "stage2", config)
    assert start.progress == RunProgress()
    for path, leaf in fresh_arrays().items():
        expected = saved[10][path] if path.startswith("params/") else leaf
        np.testing.assert_array_equal(start.arrays[path], expected, err_msg=path)


def test_moments_without_progress_have_a_schedule_at_step_0(tmp_path):
    save_run(tmp_path / "stage1", epochs(0.5))
    (tmp_path / "stage2").mkdir()
    parts = ("params", "opt_state")
    start = begin(
        tmp_path / "stage2", changed(resume_from=str(tmp_path / "stage1"), restore__parts=parts)
    )
    counts = {p: int(a) for p, a in start.arrays.items() if p.endswith("count")}
    assert counts == {"opt_state/inner_state/learning_rate/count": 0}
    assert {int(a) for p, a in start.arrays.items() if "/adam/count/" in p} == {1}


def test_the_rules_for_another_run_do_not_disturb_the_own_checkpoint(tmp_path):
    saved = save_run(tmp_path, epochs(0.5))
    config = changed(restore__rules=(("old/(.*)", r"text/\1"),), restore__parts=("params",))
    assert_same(begin(tmp_path, config).arrays, saved[10])


@pytest.mark.parametrize(
    "change, words",
    [
        ({"max_epochs": 100}, "max_epochs: 5 -> 100 (the run and its schedule now end"),
        ({"learning_rate": 1e-5}, "learning_rate: 2e-05 -> 1e-05 (the config's schedule applies"),
        ({"batch_size": 16}, "batch_size: 32 -> 16 (the position in the epoch is kept in examples"),
        ({"accumulate_steps": 2}, "accumulate_steps: 1 -> 2"),
        ({"replace_formula_prob": 0.5}, "replace_formula_prob: 0.0 -> 0.5 (applies to every"),
        ({"replace_formula_start_epoch": 3}, "formulas are replaced from epoch 3"),
        ({"augment__max_strain": 0.1}, "augment.max_strain: 0.05 -> 0.1"),
        ({"optimizer__name": "adam"}, "optimizer.name: 'adamw' -> 'adam' (parameters, step"),
    ],
)
def test_every_change_is_named_with_what_it_does(tmp_path, change, words):
    save_run(tmp_path, epochs(0.5))
    notes = [note for note in begin(tmp_path, changed(**change)).notes if "changed" in note]
    assert len(notes) == 1
    assert words in notes[0]


MIDDLE = {15: (RunProgress(step=15, epoch=1, examples_in_epoch=50, examples_seen=150), None)}


def test_the_position_in_the_epoch_is_kept(tmp_path):
    save_run(tmp_path, MIDDLE)
    assert begin(tmp_path, changed(batch_size=16)).progress.examples_in_epoch == 50


@pytest.mark.parametrize("how", ["seed", "groups", "examples"])
def test_or_the_epoch_starts_over_where_the_order_is_different(tmp_path, how):
    save_run(tmp_path, MIDDLE)
    if how == "seed":
        start = begin(tmp_path, changed(seed=7))
    elif how == "groups":
        start = begin(tmp_path, changed(input__group_by="formula"))
    else:
        start = begin(tmp_path, num_train_examples=90)
    assert start.progress.examples_in_epoch == 0
    assert (start.progress.step, start.progress.epoch) == (15, 1)
    assert any("epoch 1 starts over" in note for note in start.notes)


def test_the_best_value_of_a_different_metric_is_forgotten(tmp_path):
    progress = RunProgress(step=10, epoch=1, best_value=0.5, best_step=10, validations_since_best=3)
    save_run(tmp_path, {10: (progress, {"val_loss": 0.5})})
    assert begin(tmp_path).progress == progress
    other = changed(checkpoint__monitor="text_to_crystal_top1", checkpoint__mode="max")
    assert begin(tmp_path, other).progress == progress.without_best()


def test_a_checkpoint_of_a_different_version_is_not_called_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(layout, "FORMAT", layout.FORMAT + 1)
    save_run(tmp_path, epochs(0.5))
    with pytest.raises(layout.CheckpointFormatError, match="another version"):
        begin(tmp_path)
    assert (tmp_path / "checkpoints" / "10").is_dir()
