"""Saving and reading the checkpoints of a run, including failures of the disk."""

import asyncio
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from helpers.states import (
    assert_same,
    epochs,
    make_config,
    make_state,
    save_run,
    shapes_of,
    small_arrays,
    small_shapes,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax.checkpoint._src.path import gcs_utils, temporary_paths

from clac_jax.checkpoint import capacity, manager, orbax_manager
from clac_jax.checkpoint.arrays import HostBuffers, read_arrays
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.inspect import list_run
from clac_jax.checkpoint.layout import read_all, read_info
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.checkpoint.remote import MANIFEST
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.training import optim
from clac_jax.training.parallel import Pmap
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import create_train_state


def opened(workdir, **options):
    return Checkpoints(workdir, make_config(**options), small_shapes(), 100)


def kept(workdir):
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


@pytest.mark.parametrize("frozen", [(), ("text/.*",)])
@pytest.mark.parametrize("async_save", [True, False])
def test_a_saved_state_is_restored(tmp_path, frozen, async_save):
    config = make_config(async_save=async_save)
    config.frozen = frozen
    state = make_state(seed=1, config=config)
    progress = RunProgress(step=7, epoch=2, examples_in_epoch=40, examples_seen=300)
    arrays = to_arrays(state)
    checkpoints = Checkpoints(tmp_path, config, shapes_of(arrays), num_train_examples=123)
    checkpoints.save(arrays, progress, {"val_loss": 0.25})
    checkpoints.close()

    info = read_info(epath.Path(tmp_path) / "checkpoints" / "7")
    template = make_state(seed=2, config=config)  # with different values
    restored = from_arrays(template, read_arrays(info, arrays))
    assert jax.tree.structure(restored) == jax.tree.structure(template)
    assert_same(to_arrays(restored), arrays)
    assert info.progress == progress
    assert info.metrics == {"val_loss": 0.25}
    assert info.num_train_examples == 123
    assert info.config == json.loads(json.dumps(config.to_dict()))
    assert info.versions["jax"] == jax.__version__
    assert info.leaves["params/text/kernel"].norm == pytest.approx(
        float(jnp.linalg.norm(state.params["text"]["kernel"])), rel=1e-6
    )


def test_a_save_does_not_change_with_the_state():
    parallel = Pmap()
    state = parallel.put(make_state())
    arrays = to_arrays(parallel.local(state))
    copy = HostBuffers(small_shapes()).fill(arrays)
    before = {path: np.array(leaf) for path, leaf in copy.items()}
    del arrays
    bump = jax.pmap(lambda s: jax.tree.map(lambda leaf: leaf + 1, s), donate_argnums=(0,))
    jax.block_until_ready(bump(state))
    assert_same(copy, before)
    assert_same(copy, small_arrays())


def test_keeps_the_best_and_the_last(tmp_path):
    checkpoints = opened(tmp_path, save_top_k=2)
    for step, loss in enumerate([3.0, 1.0, float("nan"), 2.0, 5.0], start=1):
        checkpoints.save(small_arrays(), RunProgress(step=step), {"val_loss": loss})
    checkpoints.save(small_arrays(), RunProgress(step=6), None)
    checkpoints.close()
    assert kept(tmp_path) == {2, 4, 6}


def test_a_run_started_again_remembers_which_were_best(tmp_path):
    for step, loss in enumerate([3.0, 1.0, 2.0, 5.0, 4.0], start=1):
        checkpoints = opened(tmp_path, save_top_k=1)
        checkpoints.save(small_arrays(), RunProgress(step=step), {"val_loss": loss})
        checkpoints.close()
    assert kept(tmp_path) == {2, 5}
    checkpoints = opened(tmp_path, save_top_k=1)
    assert checkpoints.best_first() == [2, 5]
    checkpoints.close()


def test_milestones_and_the_end(tmp_path):
    checkpoints = opened(tmp_path, save_top_k=1, keep_every_n_steps=2, save_last=False)
    for step, loss in enumerate([1.0, 2.0, 3.0, 4.0, 5.0], start=1):
        checkpoints.save(small_arrays(), RunProgress(step=step), {"val_loss": loss})
    checkpoints.wait()
    assert kept(tmp_path) == {1, 2, 4, 5}
    checkpoints.end(RunProgress(step=5), tested_step=1)
    checkpoints.close()
    assert kept(tmp_path) == {1, 2, 4}


@pytest.mark.parametrize("tested", [2, 1])
def test_the_last_one_stays_at_the_end_if_it_was_tested_or_no_other_can_be_read(tmp_path, tested):
    """As where the best one was damaged after it had been saved."""
    checkpoints = opened(tmp_path, save_top_k=1, save_last=False)
    for step, loss in enumerate([1.0, 2.0], start=1):
        checkpoints.save(small_arrays(), RunProgress(step=step), {"val_loss": loss})
    checkpoints.wait()
    if tested == 1:
        (tmp_path / "checkpoints" / "1" / MANIFEST).unlink()
    checkpoints.end(RunProgress(step=2), tested)
    checkpoints.close()
    assert 2 in kept(tmp_path)


def test_milestones_by_time_continue_after_a_stop_of_any_length(tmp_path, monkeypatch):
    """Saves after half an hour of training each, in three starts."""
    now = [1e6]
    monkeypatch.setattr(manager.time, "monotonic", lambda: now[0])
    for steps in ([1, 2, 3], [4], [5, 6, 7]):
        checkpoints = opened(tmp_path, save_top_k=0, keep_every_hours=1.0)
        for step in steps:
            now[0] += 1800
            checkpoints.save(small_arrays(), RunProgress(step=step), None)
            checkpoints.wait()
        checkpoints.close()
        now[0] += 1e5  # nothing runs
    assert kept(tmp_path) == {2, 4, 6, 7}
    rows = list_run(*read_all(checkpoints.directory))
    assert [row["kept"] for row in rows] == [*[["every 1 h"]] * 3, ["last"]]
    assert read_info(checkpoints.directory / "7").trained_seconds == 7 * 1800


def test_a_checkpoint_of_the_same_step_is_replaced(tmp_path):
    checkpoints = opened(tmp_path)
    before = RunProgress(step=1, examples_in_epoch=10)
    checkpoints.save(small_arrays(), before, None)
    checkpoints.save(small_arrays(), before.after_epoch(), {"val_loss": 1.0})
    checkpoints.close()
    (info,) = read_all(checkpoints.directory)[0].values()
    assert (info.progress.epoch, info.metrics) == (1, {"val_loss": 1.0})
    assert kept(tmp_path) == {1}


def test_a_kill_while_a_checkpoint_is_replaced_loses_nothing(tmp_path):
    save_run(tmp_path, epochs(0.5))
    directory = tmp_path / "checkpoints"
    (directory / "being_replaced").mkdir()
    (directory / "10").rename(directory / "being_replaced" / "10")
    opened(tmp_path).close()
    assert kept(tmp_path) == {10}
    # If the new one was committed, the old one is removed.
    shutil.copytree(directory / "10", directory / "being_replaced" / "10")
    opened(tmp_path).close()
    assert kept(tmp_path) == {10}


@pytest.mark.parametrize("leftover", ["20.orbax-checkpoint-tmp", "being_deleted/5"])
def test_leftovers_of_a_killed_save_are_removed_and_not_used(tmp_path, leftover):
    save_run(tmp_path, epochs(0.5))
    path = tmp_path / "checkpoints" / leftover
    path.mkdir(parents=True)
    (path / "half").write_bytes(b"written")
    checkpoints = opened(tmp_path)
    assert set(checkpoints.read_all()[0]) == {10}
    checkpoints.close()
    assert kept(tmp_path) == {10}


def test_damaged_checkpoints_are_set_aside(tmp_path):
    save_run(tmp_path, epochs(0.5, 0.4))
    for _ in range(2):
        Checkpoints(tmp_path, make_config(), small_shapes(), 100, damaged=[20]).close()
        shutil.copytree(tmp_path / "checkpoints" / "10", tmp_path / "checkpoints" / "20")
    aside = {path.name for path in (tmp_path / "checkpoints" / "damaged").iterdir()}
    assert aside == {"20", "20-1"}


def break_saving(checkpoints, monkeypatch, failures):
    """Makes the next saves fail as on a full disk; returns the list of attempts."""
    attempts = []
    original = Checkpoints._save

    def save(self, arrays, info):
        attempts.append(info.step)
        if len(attempts) <= failures:
            raise OSError(28, "No space left on device")
        original(self, arrays, info)

    monkeypatch.setattr(Checkpoints, "_save", save)
    return attempts


def test_a_save_that_fails_is_tried_again(tmp_path, monkeypatch, capsys):
    checkpoints = opened(tmp_path, retries=2)
    attempts = break_saving(checkpoints, monkeypatch, failures=2)
    checkpoints.save(small_arrays(), RunProgress(step=1), {"val_loss": 1.0})
    checkpoints.close()
    assert attempts == [1, 1, 1]
    assert kept(tmp_path) == {1}
    assert capsys.readouterr().err.count("No space left on device") == 2


def test_a_save_that_keeps_failing_stops_the_run(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path, retries=1, on_failure="stop")
    break_saving(checkpoints, monkeypatch, failures=2)
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    with pytest.raises(CheckpointError, match=r"save step 1.*No space left on device"):
        checkpoints.wait()
    checkpoints.close()


def test_or_the_run_continues_and_says_so(tmp_path, monkeypatch, capsys):
    checkpoints = opened(tmp_path, retries=0, on_failure="continue")
    break_saving(checkpoints, monkeypatch, failures=1)
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    checkpoints.wait()
    assert "Training continues" in capsys.readouterr().err
    assert checkpoints.saved is None
    checkpoints.save(small_arrays(), RunProgress(step=2), None)
    checkpoints.close()
    assert kept(tmp_path) == {2}


def test_a_last_save_that_failed_is_never_passed_over(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path, retries=0, on_failure="continue")
    break_saving(checkpoints, monkeypatch, failures=1)
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    with pytest.raises(CheckpointError, match="save step 1"):
        checkpoints.wait_for_last()
    checkpoints.close()


def test_a_folder_that_cannot_be_written_is_reported(tmp_path):
    checkpoints = opened(tmp_path, async_save=False, retries=1)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").write_text("a file where the folder was")
    with pytest.raises(CheckpointError, match="Cannot save step 1"):
        checkpoints.save(small_arrays(), RunProgress(step=1), None)


def test_a_checkpoint_that_does_not_fit_is_not_started(tmp_path, monkeypatch, capsys):
    """Nothing is written, so no thread of Orbax fails, and the remaining space stays free."""
    checkpoints = opened(tmp_path, retries=1)
    monkeypatch.setattr(capacity, "_free", lambda directory: 1000)
    monkeypatch.setattr(
        ocp.CheckpointManager, "save", lambda *_, **__: pytest.fail("it was started")
    )
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    with pytest.raises(CheckpointError, match=r"No space left .*0\.0 MB are free.*free some space"):
        checkpoints.wait()
    checkpoints.close()
    assert capsys.readouterr().err.count("warning: Cannot save step 1") == 1
    assert kept(tmp_path) == set()


def test_a_disk_without_space_for_one_checkpoint_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(capacity, "_free", lambda directory: 1000)
    with pytest.raises(capacity.CapacityError, match=r"takes 1\.0 MB, and .* has 0\.0 MB free"):
        opened(tmp_path)


@pytest.mark.parametrize(
    "options, fits", [({"save_top_k": 2}, 4), ({"save_top_k": 0}, 2), ({"save_top_k": -1}, 6)]
)
def test_a_disk_that_will_be_full_is_foreseen(tmp_path, monkeypatch, capsys, options, fits):
    """The kept checkpoints and the one being written; all five epochs when all are kept."""
    size = capacity.checkpoint_size(small_shapes())
    for count in (fits, fits - 1):
        free = count * size
        monkeypatch.setattr(capacity, "_free", lambda directory, free=free: free)
        opened(tmp_path, **options).close()
        assert ("Free some space before" in capsys.readouterr().err) == (count < fits)


def test_a_finished_run_needs_no_space(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path)
    checkpoints.save(small_arrays(), RunProgress(step=50, epoch=5), None)
    checkpoints.close()
    monkeypatch.setattr(capacity, "_free", lambda directory: 1000)
    opened(tmp_path).close()


def test_too_few_file_descriptors_are_found_before_a_save(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path, retries=0)

    def fail(*_):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(capacity, "_open_some", fail)
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    with pytest.raises(CheckpointError, match=r"Too many open files.*ulimit -n"):
        checkpoints.wait()
    checkpoints.close()
    with pytest.raises(capacity.CapacityError, match="ulimit -n"):
        opened(tmp_path)


def test_a_checkpoints_folder_that_cannot_be_written_is_found_at_the_start(tmp_path, monkeypatch):
    save_run(tmp_path, epochs(0.5))

    def fail(folder):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(orbax_manager, "check_writable", fail)
    with pytest.raises(CheckpointError, match="checkpoints: Read-only file system"):
        opened(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / "checkpoints").symlink_to(tmp_path / "scratch" / "not_mounted")
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"is a link to .*not_mounted, which does not exist"):
        opened(tmp_path)


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    checkpoints = opened(tmp_path, retries=0)

    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manager, "write_manifest", fail)
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    with pytest.raises(CheckpointError):
        checkpoints.wait()
    checkpoints.close()
    assert kept(tmp_path) == set()


def test_a_name_taken_by_a_file_or_a_dead_link_does_not_stop_a_save(tmp_path, capsys):
    checkpoints = opened(tmp_path, async_save=False)
    (tmp_path / "checkpoints" / "1").write_text("a note")
    (tmp_path / "checkpoints" / "2").symlink_to(tmp_path / "nothing")
    for step in (1, 2):
        checkpoints.save(small_arrays(), RunProgress(step=step), {"val_loss": float(step)})
    checkpoints.close()
    assert kept(tmp_path) == {1, 2}
    assert list(read_all(checkpoints.directory)[0]) == [1, 2]


def test_orbax_takes_a_copy_in_a_bucket_for_complete(tmp_path, monkeypatch):
    """A folder name marks nothing there; Orbax requires a marker file in each folder it opens."""
    saved = save_run(tmp_path, epochs(0.5))[10]
    folder = epath.Path(tmp_path) / "checkpoints" / "10"
    monkeypatch.setattr(gcs_utils, "is_gcs_path", lambda path: True)
    for part in (folder, folder / "state", folder / "run"):
        assert asyncio.run(temporary_paths.is_path_finalized(part))
        assert not asyncio.run(temporary_paths.is_path_temporary(part))
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
        tree = checkpointer.restore(folder / "state")
    np.testing.assert_array_equal(tree["params"]["text"]["kernel"], saved["params/text/kernel"])
    (folder / "state" / "commit_success.txt").unlink()
    assert not asyncio.run(temporary_paths.is_path_finalized(folder / "state"))
    with pytest.raises(DamagedCheckpointError, match="commit_success"):
        read_info(folder)


def test_orbaxs_own_manager_opens_a_run(tmp_path):
    saved = save_run(tmp_path, epochs(0.5, 0.4))
    with ocp.CheckpointManager(
        tmp_path / "checkpoints",
        item_names=("state", "run"),
        options=ocp.CheckpointManagerOptions(),
    ) as orbax:
        assert orbax.all_steps() == [10, 20]
        found = orbax.restore(
            20, args=ocp.args.Composite(state=ocp.args.PyTreeRestore(), run=ocp.args.JsonRestore())
        )
    assert found.run["progress"]["step"] == 20
    kernel = saved[20]["params/text/kernel"]
    np.testing.assert_array_equal(found.state["params"]["text"]["kernel"], kernel)


def test_rows_are_on_the_disk_before_the_checkpoint(tmp_path):
    checkpoints = opened(tmp_path)
    there = []
    checkpoints.save(
        small_arrays(),
        RunProgress(step=1),
        None,
        before_commit=lambda: there.append((tmp_path / "checkpoints" / "1").exists()),
    )
    checkpoints.close()
    assert there == [False]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=4))
def test_trees_of_any_shape_survive_the_round_trip(shapes):
    params = {f"p{k}": {"leaf": jnp.full(shape, float(k))} for k, shape in enumerate(shapes)}
    tx = optim.make_optimizer(make_config(), params, lambda _: 0.1)
    state = create_train_state(None, {"params": params}, tx, 0)
    again = from_arrays(state, to_arrays(state))
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert_same(to_arrays(again), to_arrays(state))


def saved_after(tmp_path, monkeypatch, disturb):
    """A run whose first save of step 2 is disturbed just before it completes."""
    checkpoints = opened(tmp_path, async_save=False)
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    save, calls = ocp.CheckpointManager.save, []

    def disturbed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 1:
            disturb(before=True)
        result = save(self, *args, **kwargs)
        if len(calls) == 1:
            disturb(before=False)
        return result

    monkeypatch.setattr(ocp.CheckpointManager, "save", disturbed)
    checkpoints.save(small_arrays(), RunProgress(step=2), None)
    assert len(calls) == 2
    return checkpoints


def test_a_checkpoints_folder_that_is_removed_during_a_save_is_made_again(tmp_path, monkeypatch):
    def remove_all(before):
        if before:
            shutil.rmtree(tmp_path / "checkpoints")

    checkpoints = saved_after(tmp_path, monkeypatch, remove_all)
    intact, damaged = checkpoints.read_all()
    checkpoints.close()
    assert (set(intact), damaged) == ({2}, {})
    assert kept(tmp_path) == {2}


def test_arrays_that_orbax_could_not_merge_are_saved_again(tmp_path, monkeypatch):
    def unmerge(before):
        if not before:
            (tmp_path / "checkpoints/2/state/manifest.ocdbt").unlink()

    checkpoints = saved_after(tmp_path, monkeypatch, unmerge)
    info = checkpoints.read_all()[0][2]
    checkpoints.close()
    assert_same(read_arrays(info, small_arrays()), small_arrays())


def test_a_workdir_that_was_moved_during_a_save_leaves_no_empty_folder(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    checkpoints = opened(old)
    checkpoints.save(small_arrays(), RunProgress(step=1), None)
    checkpoints.wait()
    old.rename(new)
    (old / "checkpoints/2.orbax-checkpoint-tmp").mkdir(parents=True)  # as Orbax does
    checkpoints.follow(new)
    assert not old.exists()
    assert checkpoints.saved is None  # it may have been saved in the old folder
    checkpoints.close()
