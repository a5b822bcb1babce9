"""A checkpoint in parts: merged, committed, killed at any point, and parts that never come."""

import json
import os
import subprocess
import sys
import threading

import orbax.checkpoint as ocp
import pytest
from etils import epath
from helpers.divided_states import arrays_at, open_checkpoints, shapes_among
from helpers.paths import ROOT
from helpers.states import assert_same

from clac_jax.checkpoint import parts
from clac_jax.checkpoint.arrays import needed_files, read_arrays
from clac_jax.checkpoint.background import CheckpointError
from clac_jax.checkpoint.inspect import diff
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.parts import LostPartError
from clac_jax.checkpoint.shard_handler import Target
from clac_jax.training.progress import RunProgress


def save_in_parts(workdir, step=1, processes=2, **options):
    """Saves one step by several processes; returns their checkpoints, which are not closed."""
    workdir.mkdir(exist_ok=True)
    everyone = [open_checkpoints(workdir, k, processes, **options) for k in range(processes)]
    for checkpoints in reversed(everyone):
        checkpoints.save(arrays_at(step), RunProgress(step=step), None)
    return everyone


def close(everyone):
    for checkpoints in everyone:
        checkpoints.close()


def assert_intact(workdir, step):
    intact, damaged = read_all(epath.Path(workdir) / "checkpoints")
    assert step in intact and not damaged
    assert_same(read_arrays(intact[step], arrays_at(step)), arrays_at(step))


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_the_parts_of_all_processes_become_one_checkpoint(tmp_path, processes):
    everyone = save_in_parts(tmp_path, 1, processes)
    for checkpoints in reversed(everyone):
        checkpoints.save(arrays_at(2), RunProgress(step=2), None)
    close(everyone)
    for step in (1, 2):
        assert_intact(tmp_path, step)
        state = tmp_path / "checkpoints" / str(step) / "state"
        assert len(list(state.glob("ocdbt.process_*"))) == processes
        tree = ocp.PyTreeCheckpointer().restore(state)  # as any program would
        assert_same(
            {"/".join(k): v for k, v in ocp.utils.to_flat_dict(tree).items()}, arrays_at(step)
        )
    assert sorted(os.listdir(tmp_path / "checkpoints")) == ["1", "2"]


def test_each_process_writes_only_the_shards_that_it_owns(tmp_path):
    close(save_in_parts(tmp_path, 1, 2))
    state = tmp_path / "checkpoints" / "1" / "state"
    sizes = [
        sum(f.stat().st_size for f in (state / f"ocdbt.process_{k}" / "shards").iterdir())
        for k in (0, 1)
    ]
    total = sum(array.nbytes for array in arrays_at(1).values())
    assert max(sizes) < 0.7 * total and 0.99 * total < sum(sizes) < 1.2 * total


def test_all_of_a_part_is_synced_before_it_is_noted(tmp_path, monkeypatch):
    """The process that reads the note may rely on the part, also after a power failure."""
    fsync, synced, noted = os.fsync, set(), []

    def record(descriptor):
        synced.add(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def publish(folder, index, note):
        part = parts.database_of(folder, index)
        paths = [folder, part, *part.rglob("*")]
        noted.append({path.name for path in paths if path.stat().st_ino not in synced})

    monkeypatch.setattr("os.fsync", record)
    part = open_checkpoints(tmp_path, 1, 2)
    monkeypatch.setattr(part.snapshot.exchange, "publish", publish)
    part.save(arrays_at(1), RunProgress(step=1), None)
    part.close()
    assert noted == [set()]


def test_each_process_needs_its_shards_and_what_every_process_needs(tmp_path):
    """To download no more of a checkpoint in a bucket."""
    close(save_in_parts(tmp_path, 1, 3))
    info = read_all(epath.Path(tmp_path) / "checkpoints")[0][1]

    def needed_by(index):
        targets = {}
        for path, leaf in shapes_among(3).items():
            if leaf.sharding is not None:
                indices = leaf.sharding.devices_indices_map(leaf.shape)
                mine = {d: i for d, i in indices.items() if d.process_index == index}
                leaf.sharding.addressable_devices_indices_map = lambda _, mine=mine: mine
            targets[path] = Target(path, leaf)
        names = needed_files(info, targets)
        return {name.rpartition("/")[0] for name in names if "ocdbt.process_" in name}

    first, third = "state/ocdbt.process_0", "state/ocdbt.process_2"
    assert needed_by(0) == {first, f"{first}/nodes", f"{first}/shards"}
    assert needed_by(2) == {first, f"{first}/nodes", third, f"{third}/nodes", f"{third}/shards"}


def test_killed_at_any_point_the_next_start_finds_the_last_complete_checkpoint(tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "helpers" / "killed_saves.py", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    before = ("save started", "part started", "part written", "part described", "part noted")
    before += ("parts complete", "marked as unfinished", "part added", "merged")
    after = ("committed", "parts removed", "removal started", "moved to the trash")
    assert found == {
        **{f"process 0 at {point}": 1 for point in (*before, "all files written")},
        **{f"process 0 at {point}": 2 for point in after},
        **{f"process 1 at {point}": 1 for point in before[1:4]},
        "process 1 at part noted": 2,  # its part is complete, so the first one commits
        "process 0 at old one of the step moved, replacing": 2,
        "process 0 at merged, replacing": 2,
        **{f"{processes} processes after a kill": 3 for processes in (1, 2, 3)},
    }


def test_the_first_process_names_the_one_that_cannot_save_its_part(tmp_path, monkeypatch):
    def fail(folder, index, *arguments):
        if index == 1:
            folder.mkdir(exist_ok=True)
            raise OSError(28, "No space left on device")
        return write_part(folder, index, *arguments)

    write_part = parts.write_part
    monkeypatch.setattr(parts, "write_part", fail)
    everyone = save_in_parts(tmp_path, retries=1, async_save=True)
    with pytest.raises(CheckpointError, match=r"this process's part of step 1.*[Ss]pace"):
        everyone[1].wait()
    with pytest.raises(CheckpointError, match=r"Process 1 cannot save its part.*[Ss]pace"):
        everyone[0].wait()
    assert os.listdir(tmp_path / "checkpoints") == [], "nothing is left of the save"
    monkeypatch.undo()
    for checkpoints in reversed(everyone):
        checkpoints.save(arrays_at(2), RunProgress(step=2), None)
    close(everyone)
    assert_intact(tmp_path, 2)


def test_a_failed_merge_is_tried_again_with_the_same_parts(tmp_path, monkeypatch, capsys):
    calls = []

    def fail_once(*arguments):  # source, target, files
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(5, "Input/output error")
        return add_database(*arguments)

    add_database = parts.add_database
    monkeypatch.setattr(parts, "add_database", fail_once)
    close(save_in_parts(tmp_path))
    assert "Attempt 2 follows" in capsys.readouterr().err
    assert_intact(tmp_path, 1)


def test_a_file_system_without_hard_links_gets_copies(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    close(save_in_parts(tmp_path))
    assert_intact(tmp_path, 1)


def test_the_part_of_a_lost_process_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "GRACE_SECONDS", 0.05)
    first = open_checkpoints(tmp_path, 0, 2)
    first.save(arrays_at(1), RunProgress(step=1), None)
    threading.Timer(0.05, first.others_are_lost).start()
    with pytest.raises(CheckpointError, match=r"Process 1 has not saved its part\."):
        first.wait()
    first.drain()
    assert os.listdir(tmp_path / "checkpoints") == []


def test_a_note_without_a_shard_is_refused(tmp_path):
    everyone = save_in_parts(tmp_path, 1, 2)
    division = everyone[0].snapshot._division
    close(everyone)
    lacking = parts.Part(files={}, shards={})
    with pytest.raises(LostPartError, match="Process 0 has not saved shard 0 of params/a/kernel"):
        parts.combine(division, {0: lacking, 1: lacking})


def test_parts_of_an_earlier_start_are_removed_and_never_merged(tmp_path):
    """A process of an earlier start may even have written its part under the same number."""
    late = open_checkpoints(tmp_path / "run", 1, 2, names="earlier")
    late.save(arrays_at(7), RunProgress(step=1), None)
    late.close()
    everyone = save_in_parts(tmp_path / "run", 1, 2, names="later")
    close(everyone)
    assert_intact(tmp_path / "run", 1)
    assert os.listdir(tmp_path / "run" / "checkpoints") == ["1"]


def test_equal_arrays_in_other_shards_do_not_differ(tmp_path):
    infos = []
    for processes in (2, 3):
        close(save_in_parts(tmp_path / str(processes), 1, processes))
        infos.append(read_all(epath.Path(tmp_path) / str(processes) / "checkpoints")[0][1])
    found = diff(*infos)
    assert found.num_equal == len(arrays_at(1))
    assert not (found.changed or found.reshaped or found.only_a or found.only_b)


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"Cannot use .*file/checkpoints"):
        open_checkpoints(tmp_path / "file", 1, 2)
