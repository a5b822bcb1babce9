"""Steps of runs, computed again."""

import dataclasses
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from helpers.forged import forge_checkpoint
from helpers.replayed_runs import BATCH, STEPS_PER_EPOCH

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.every import check_every
from clac_jax.replay.examination import examine
from clac_jax.replay.history import read_history
from clac_jax.replay.replayer import Replayer
from clac_jax.training.progress import RunProgress


def files_of(workdir):
    return {
        path: (path.stat().st_mtime_ns, path.stat().st_size)
        for path in workdir.rglob("*")
        if path.is_file()
    }


def test_a_step_is_computed_again_and_looked_into(run, tmp_path):
    files, history = files_of(run), read_history(str(run))
    lines = []
    replayer = Replayer(history, tmp_path / "scratch", lines.append)
    replayer.go_to(STEPS_PER_EPOCH)
    batch = replayer.take_batch()
    looked = examine(replayer, batch)
    done = replayer.do(batch)

    recorded = history.digests(STEPS_PER_EPOCH)
    assert {name: done.digests[name] for name in recorded} == recorded
    checkpoint = history.checkpoints[STEPS_PER_EPOCH]
    arrays = replayer.arrays()
    for path, array in read_arrays(checkpoint, checkpoint.leaves).items():
        np.testing.assert_array_equal(arrays[path], array, err_msg=path)
    assert lines == ["restored  nothing: a fresh state, as at the start"]
    assert files_of(run) == files

    indices = np.unique(np.asarray(batch.example_index))
    assert sorted(example.index for example in looked.examples) == indices.tolist()
    for term in ("loss", "cross_modal_loss"):
        mean = np.mean([example.terms[term] for example in looked.examples])
        np.testing.assert_allclose(mean, done.metrics[term], rtol=1e-5)
    norm = np.sqrt(sum(norm**2 for norm in looked.gradient_norms.values()))
    np.testing.assert_allclose(norm, done.metrics["grad_norm"], rtol=1e-5)
    path, index, value = looked.largest[0]
    assert abs(value) == max(np.abs(array).max() for array in looked.gradients.values())
    assert looked.gradients[path][index] == value
    scores = looked.similarity[0]
    assert [example.own_score for example in looked.examples] == pytest.approx(np.diag(scores))
    assert [example.slot for example in looked.examples] == list(range(len(scores)))

    saved = replayer.save(tmp_path / "saved")
    tree = ocp.PyTreeCheckpointer().restore(saved / "state")
    assert int(tree["step"]) == STEPS_PER_EPOCH
    with pytest.raises(ReplayError, match="is not empty"):
        replayer.save(tmp_path / "saved")


def test_steps_that_a_run_has_not_done_are_refused(run, tmp_path):
    replayer = Replayer(read_history(str(run)), tmp_path)
    for step in (0, STEPS_PER_EPOCH + 1):
        with pytest.raises(ReplayError, match=f"has no step {step}: it has done 4"):
            replayer.go_to(step)


def test_a_stretch_says_what_is_not_recorded_and_what_other_devices_did(run, tmp_path):
    history = read_history(str(run))
    (start,) = history.starts
    two = dataclasses.replace(start, devices={**start.devices, "count": 2})
    steps = history.journal.steps[: STEPS_PER_EPOCH - 1].copy()
    steps["digests"]["loss"][1] ^= 1
    journal = dataclasses.replace(history.journal, steps=steps)
    changed = dataclasses.replace(history, starts=[two], journal=journal)
    checked = check_every(Replayer(changed, tmp_path), 1, STEPS_PER_EPOCH)
    lines = "\n".join(checked.lines())
    assert (checked.compared, list(checked.wrong)) == (STEPS_PER_EPOCH - 1, [2])
    assert "1 of them: the journal has no record of them" in lines
    assert "it was done on 2 devices, and here on" in lines


def and_another_step(history):
    """The history of a run that has done a step more, in the next epoch."""
    steps = np.concatenate([history.journal.steps, history.journal.steps[-1:]])
    steps["step"][-1] += 1
    steps["epoch"][-1] += 1
    return dataclasses.replace(history, journal=dataclasses.replace(history.journal, steps=steps))


def test_a_checkpoint_is_used_though_its_validation_has_lowered_the_rate(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")

    def halve(arrays):
        arrays["learning_rate_scale"] = np.array(0.5, np.float32)

    forge_checkpoint(workdir, STEPS_PER_EPOCH, halve)
    lines = []
    replayer = Replayer(
        and_another_step(read_history(str(workdir))), tmp_path / "scratch", lines.append
    )
    replayer.go_to(STEPS_PER_EPOCH + 1)
    assert lines == [f"restored  {workdir}/checkpoints/{STEPS_PER_EPOCH}"]
    assert replayer.unlike == {}


def test_an_epoch_continues_in_smaller_steps_if_its_validation_was_interrupted(run, tmp_path):
    history = read_history(str(run))
    (start,) = history.starts
    larger = dataclasses.replace(start, config={**start.config, "batch_size": 3 * BATCH})
    smaller = dataclasses.replace(start, step=1)
    replayer = Replayer(dataclasses.replace(history, starts=[larger, smaller]), tmp_path)
    replayer.go_to(1)
    replayer.progress = RunProgress(step=1, examples_in_epoch=3 * BATCH)
    replayer.next_batch()  # by the journal, step 2 is of epoch 0
    assert (replayer.progress.epoch, replayer.progress.examples_in_epoch) == (0, 3 * BATCH)
    assert replayer.setting.config.batch_size == BATCH


@pytest.mark.slow
def test_a_run_of_many_starts_is_replayed_from_its_first_step(storied, tmp_path):
    history = read_history(str(storied))
    assert [start.step for start in history.starts] == [0, 4, 6, 10]
    rates = {row["learning_rate"] for row in history.rows if row["split"] == "train"}
    assert len(rates) > 3  # the plateau has lowered it
    without = dataclasses.replace(history, checkpoints={})
    checked = check_every(Replayer(without, tmp_path), 1, history.last_step)
    assert (checked.compared, checked.wrong) == (22, {})


@pytest.mark.slow
def test_every_step_is_reached_from_the_checkpoint_before_it(storied, tmp_path):
    history = read_history(str(storied))
    lines = []
    replayer = Replayer(history, tmp_path, lines.append)
    for step in (20, 3, 11, 7, 5):
        replayer.go_to(step)
        done = replayer.do()
        assert done.digests == {**done.digests, **history.digests(step)}
    folders = [line.rpartition("/")[2] for line in lines if "checkpoints" in line]
    assert folders == ["18", "10", "6", "4"]


@pytest.mark.slow
def test_a_plateau_needs_the_rows_of_its_validations(storied, tmp_path):
    history = dataclasses.replace(read_history(str(storied)), rows=[], checkpoints={})
    with pytest.raises(ReplayError, match="has no val_loss at step 14"):
        check_every(Replayer(history, tmp_path), 1, 22)
