"""Arrays that do not change are stored once, and every checkpoint stays one of its own."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import orbax.checkpoint as ocp
import pytest
from etils import epath
from helpers.damage import flip
from helpers.frozen_states import (
    are_linked,
    assert_run_is,
    frozen_config,
    groups_in,
    open_run,
    save_states,
    state_at,
    values_of,
)
from helpers.paths import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.checkpoint import capacity, sharing
from clac_jax.checkpoint.inspect import verify
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.removal import discard
from clac_jax.checkpoint.usage import usage_of
from clac_jax.cli import main as cli
from clac_jax.cli.ckpt import EXIT_TROUBLE
from clac_jax.files.links import link
from clac_jax.training.progress import RunProgress


def checkpoint(workdir, step):
    return epath.Path(workdir) / "checkpoints" / str(step)


def only_group(workdir, step):
    (database,) = groups_in(workdir, step).values()
    return database


def test_frozen_arrays_are_linked_from_the_first_checkpoint_on(tmp_path):
    states = {step: state_at(step) for step in (1, 2, 3)}
    save_states(tmp_path, states)
    assert_run_is(tmp_path, states)
    files = [values_of(only_group(tmp_path, step)) for step in states]
    assert are_linked(*files)
    frozen = sum(a.nbytes for path, a in states[1].items() if path.startswith("params/text/"))
    total = sum(array.nbytes for array in states[1].values())
    for step in states:
        usage = usage_of([checkpoint(tmp_path, step)])
        assert usage.own < total - frozen + 50_000 < total < usage.num_bytes


def test_a_resumed_run_links_too(tmp_path):
    states = {1: state_at(1), 2: state_at(2)}
    for step, arrays in states.items():
        save_states(tmp_path, {step: arrays})
    assert_run_is(tmp_path, states)
    assert are_linked(*(values_of(only_group(tmp_path, step)) for step in states))


def test_stock_orbax_opens_it_without_the_checkpoints_it_shares_with(tmp_path):
    save_states(tmp_path, {1: state_at(1), 2: state_at(2)})
    shutil.rmtree(checkpoint(tmp_path, 1))
    tree = ocp.PyTreeCheckpointer().restore(checkpoint(tmp_path, 2) / "state")
    for path, array in state_at(2).items():
        leaf = tree
        for name in path.split("/"):
            leaf = leaf[name]
        assert np.asarray(leaf).tobytes() == array.tobytes()


def test_a_flipped_bit_in_a_frozen_array_is_saved_as_it_is(tmp_path):
    states = {step: state_at(step) for step in (1, 2, 3, 4)}
    for step in (2, 3, 4):
        bits = states[step]["params/text/word"].view(np.uint32)
        bits[300, 200] ^= 1
    save_states(tmp_path, states)
    assert_run_is(tmp_path, states)
    assert not groups_in(tmp_path, 2), "it has changed"
    first, third, fourth = (values_of(only_group(tmp_path, step)) for step in (1, 3, 4))
    assert not are_linked(first, third) and are_linked(third, fourth)


@pytest.mark.parametrize("starts", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_an_array_that_stops_changing_is_stored_once_from_the_second_time_on(tmp_path, starts):
    states = {step: state_at(step, other=0 if step > 1 else None) for step in (1, 2, 3, 4)}
    if starts == 1:
        save_states(tmp_path, states)
    else:
        for step, arrays in states.items():
            save_states(tmp_path, {step: arrays})
    assert_run_is(tmp_path, states)
    common = groups_in(tmp_path, 3).keys() & groups_in(tmp_path, 4).keys()
    assert [len(groups_in(tmp_path, step)) for step in states] == [1, 1, 2, 2] and len(common) == 2
    for name in common:
        assert are_linked(*(values_of(groups_in(tmp_path, step)[name]) for step in (3, 4)))


def test_the_checkpoint_that_first_wrote_a_file_can_be_removed(tmp_path, capsys):
    states = {step: state_at(step) for step in (1, 2, 3)}
    save_states(tmp_path, states)
    assert cli.main(["ckpt", "rm", str(tmp_path), "1"]) in (None, 0)
    removed = capsys.readouterr().out
    assert "checkpoints/1 (1.2 MB freed)" in removed, removed
    del states[1]
    assert_run_is(tmp_path, states)
    cli.main(["ckpt", "rm", str(tmp_path), "2", "3", "--force"])
    assert "checkpoints/3 (2.3 MB freed)" in capsys.readouterr().out


def test_a_damaged_file_is_not_passed_on_and_all_that_share_it_are_named(tmp_path, capsys):
    states = {step: state_at(step) for step in (1, 2, 3)}
    save_states(tmp_path, {step: states[step] for step in (1, 2)})
    flip(values_of(only_group(tmp_path, 2)))
    save_states(tmp_path, {3: states[3]})
    assert "does not hold what was written, so its arrays are written again" in (
        capsys.readouterr().err
    )
    assert verify(checkpoint(tmp_path, 3)) is None
    assert "also in checkpoint 1" in verify(checkpoint(tmp_path, 2))
    assert cli.main(["ckpt", "verify", str(tmp_path)]) == EXIT_TROUBLE
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("/")[2][:1] for line in lines if "intact" in line] == ["3"]
    assert sum("DAMAGED" in line for line in lines) == 2
    for step in (1, 2):
        discard(epath.Path(tmp_path) / "checkpoints", checkpoint(tmp_path, step))
    assert_run_is(tmp_path, {3: states[3]})


def test_a_damaged_list_of_arrays_is_not_used(tmp_path):
    save_states(tmp_path, {1: state_at(1)})
    flip(only_group(tmp_path, 1) / "arrays.json")
    save_states(tmp_path, {2: state_at(2)})
    assert verify(checkpoint(tmp_path, 2)) is None
    assert not are_linked(*(values_of(only_group(tmp_path, step)) for step in (1, 2)))


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_every_checkpoint_has_its_own_files(tmp_path, monkeypatch, capsys, code):
    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    states = {step: state_at(step) for step in (1, 2)}
    save_states(tmp_path, states)
    assert_run_is(tmp_path, states)
    assert capsys.readouterr().err.count("every checkpoint has its own copy") == 1
    assert usage_of([checkpoint(tmp_path, 2)]).own > sum(a.nbytes for a in states[2].values())


def test_a_file_with_the_most_links_there_can_be_is_written_again(tmp_path, monkeypatch):
    def limited(source, target):
        if os.stat(source).st_nlink > 2:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        os_link(source, target)

    os_link = os.link
    monkeypatch.setattr(os, "link", limited)
    states = {step: state_at(step) for step in range(1, 5)}
    save_states(tmp_path, states)
    assert_run_is(tmp_path, states)
    links = [os.stat(values_of(only_group(tmp_path, step))).st_nlink for step in states]
    assert 1 < max(links) <= 3


def test_a_source_taken_away_in_the_middle_is_written_again(tmp_path, monkeypatch):
    def late(source, target):
        if "checkpoints/1/" in str(source):
            raise FileNotFoundError(errno.ENOENT, "taken away", str(source))
        link(source, target)

    save_states(tmp_path, {1: state_at(1)})
    monkeypatch.setattr(sharing, "link", late)
    save_states(tmp_path, {2: state_at(2)})
    assert_run_is(tmp_path, {1: state_at(1), 2: state_at(2)})


@pytest.mark.parametrize(
    "command", [["cp", "-r"], pytest.param(["cp", "-a"], marks=pytest.mark.slow)]
)
def test_a_copied_workdir_is_complete(tmp_path, command):
    """With links or without: a copy is a run of its own, and continues to share."""
    states = {1: state_at(1), 2: state_at(2), 3: state_at(3)}
    save_states(tmp_path / "run", {1: states[1], 2: states[2]})
    subprocess.run([*command, tmp_path / "run", tmp_path / "copy"], check=True)
    shutil.rmtree(tmp_path / "run")
    save_states(tmp_path / "copy", {3: states[3]})
    assert_run_is(tmp_path / "copy", states)
    assert are_linked(*(values_of(only_group(tmp_path / "copy", step)) for step in (2, 3)))


def test_share_false_links_nothing(tmp_path):
    states = {step: state_at(step) for step in (1, 2)}
    save_states(tmp_path, states, share=False)
    assert_run_is(tmp_path, states)
    assert not groups_in(tmp_path, 2)
    save_states(tmp_path, {3: state_at(3)})  # older checkpoints without groups
    assert_run_is(tmp_path, states | {3: state_at(3)})


def test_the_disk_needs_space_only_for_what_is_written(tmp_path, monkeypatch, capsys):
    save_states(tmp_path, {1: state_at(1)})
    size = capacity.checkpoint_size(state_at(1))
    frozen = sum(a.nbytes for path, a in state_at(1).items() if path.startswith("params/text/"))
    monkeypatch.setattr(capacity, "_free", lambda _: size - frozen)
    save_states(tmp_path, {2: state_at(2)}, save_top_k=0)
    capsys.readouterr()
    monkeypatch.setattr(capacity, "_free", lambda _: size - frozen - 1)
    with pytest.raises(capacity.CapacityError, match=r"takes 2\.3 MB"):
        open_run(tmp_path)


def test_runs_share_through_a_store(tmp_path, capsys):
    store = str(tmp_path / "store")
    for run in ("a", "b"):
        save_states(tmp_path / run, {1: state_at(1), 2: state_at(2)}, store=store)
        assert_run_is(tmp_path / run, {1: state_at(1), 2: state_at(2)})
    files = [values_of(only_group(tmp_path / run, step)) for run in "ab" for step in (1, 2)]
    assert are_linked(*files)
    (kept,) = os.listdir(store)
    shutil.rmtree(tmp_path / "a")
    save_states(tmp_path / "b", {3: state_at(3, frozen=1)}, store=store)
    assert os.listdir(store) == [kept]
    cli.main(["ckpt", "rm", str(tmp_path / "b"), "1", "2"])
    assert os.listdir(store) == [], "nothing uses it"
    assert "freed" in capsys.readouterr().out


def test_a_store_named_relative_to_the_current_folder_is_found_from_another(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "there")
    given = frozen_config(store="../store")
    store = sharing.with_absolute_store(given).checkpoint.store
    assert store == str(tmp_path / "store") and given.checkpoint.store == "../store"
    save_states(tmp_path / "run", {1: state_at(1), 2: state_at(2, frozen=1)}, store=store)
    assert len(os.listdir(store)) == 1
    monkeypatch.chdir("/")
    cli.main(["ckpt", "rm", str(tmp_path / "run"), "1"])
    assert os.listdir(store) == []


def test_a_missing_store_is_named(tmp_path, capsys):
    """As of a run of an earlier version, which recorded a relative path."""
    states = {1: state_at(1), 2: state_at(2)}
    save_states(tmp_path / "run", states, store=str(tmp_path / "store"))
    shutil.rmtree(tmp_path / "store")
    assert cli.main(["ckpt", "rm", str(tmp_path / "run"), "1"]) == EXIT_TROUBLE
    assert f"The store {tmp_path / 'store'}" in capsys.readouterr().err


def test_only_what_the_program_has_made_is_collected(tmp_path):
    ours, others = [".new-0123456789abcdef", ".old-0123456789abcdef"], [".old-notes", ".new-plan"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("one link")
    sharing.collect(tmp_path)
    assert sorted(os.listdir(tmp_path)) == sorted(others)


def test_a_damaged_entry_of_a_store_is_replaced(tmp_path):
    store = tmp_path / "store"
    save_states(tmp_path / "a", {1: state_at(1)}, store=str(store))
    (entry,) = store.iterdir()
    flip(values_of(entry))
    save_states(tmp_path / "b", {1: state_at(1)}, store=str(store))
    save_states(tmp_path / "c", {1: state_at(1)}, store=str(store))
    files = [values_of(only_group(tmp_path / run, 1)) for run in "abc"]
    assert not are_linked(*files[:2]) and are_linked(*files[1:])
    assert verify(checkpoint(tmp_path / "c", 1)) is None


def test_an_entry_of_a_store_that_holds_other_arrays_is_not_used(tmp_path, capsys):
    """Its files may be what somebody wrote there: the name promises the arrays."""
    store = tmp_path / "store"
    for number in (0, 1):
        arrays = state_at(1, frozen=number)
        save_states(tmp_path / f"{number}", {1: arrays}, store=str(store))
    (first,), (second,) = (groups_in(tmp_path / f"{number}", 1) for number in (0, 1))
    os.rename(store / second, store / "aside")
    os.rename(store / first, store / second)
    save_states(tmp_path / "other", {1: state_at(1, frozen=1)}, store=str(store))
    assert "does not hold what its name says" in capsys.readouterr().err
    assert_run_is(tmp_path / "other", {1: state_at(1, frozen=1)})


def test_in_a_bucket_no_file_of_an_earlier_process_is_linked(tmp_path):
    """One that is paused may still delete an object of a name that it has used."""
    for step in (1, 3):
        checkpoints = open_run(tmp_path, store=str(tmp_path / "store"))
        checkpoints.sharing.only_own = True
        for number in (step, step + 1):
            checkpoints.save(state_at(number), RunProgress(step=number), None)
        if step == 3:  # saved again, as by a run that went back
            checkpoints.wait()
            before = values_of(only_group(tmp_path, 4)).name
            checkpoints.save(state_at(5) | {"step": np.int32(4)}, RunProgress(step=4), None)
        checkpoints.close()
    assert values_of(only_group(tmp_path, 4)).name != before
    files = [values_of(only_group(tmp_path, step)) for step in (1, 2, 3, 4)]
    assert are_linked(*files[:2]) and not are_linked(*files[1:3])
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_written_does_not_stop_a_run(tmp_path, capsys):
    (tmp_path / "store").write_text("a file")
    save_states(tmp_path / "run", {1: state_at(1), 2: state_at(2)}, store=str(tmp_path / "store"))
    assert_run_is(tmp_path / "run", {1: state_at(1), 2: state_at(2)})
    assert capsys.readouterr().err.count("config.checkpoint.store") == 1


NEW_POINTS = ("group linked", "group started", "put into the store", "group added", "committed")


@pytest.mark.parametrize("only", [NEW_POINTS, pytest.param((), marks=pytest.mark.slow)])
def test_killed_at_any_point_a_save_has_happened_or_not(tmp_path, only):
    program = ROOT / "tests" / "helpers" / "killed_shared_saves.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path, *only],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    after = {"committed", "parts removed", "removal started", "moved to the trash"}
    assert found == {
        f"{kind} at {point}": "new" if point in after else "old"
        for kind, points in {
            "linked": ("save started", "group linked", "parts complete", "marked as unfinished"),
            "written": ("group started", "group written", "put into the store", "group added"),
            "both": ("merged", "all files written", *after),
        }.items()
        for point in points
        if not only or point in only
    }


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["save", "restart", "remove"]), st.integers(0, 1), st.booleans()),
        min_size=2,
        max_size=7,
    )
)
def test_any_saves_and_removals_leave_every_other_checkpoint_as_it_was(tmp_path_factory, actions):
    workdir = tmp_path_factory.mktemp("run")
    expected, checkpoints = {}, open_run(workdir, async_save=False)
    for number, (action, frozen, moves) in enumerate(actions):
        if action == "remove" and expected:
            step = sorted(expected)[frozen * (len(expected) - 1)]
            discard(epath.Path(workdir) / "checkpoints", checkpoint(workdir, step))
            del expected[step], checkpoints._metrics[step]
            continue
        if action == "restart":
            checkpoints.close()
            checkpoints = open_run(workdir, async_save=False)
        expected[number] = state_at(number, frozen, other=None if moves else 0)
        checkpoints.save(expected[number], RunProgress(step=number), None)
    checkpoints.close()
    assert_run_is(workdir, expected)
    together = usage_of(checkpoint(workdir, step) for step in expected)
    assert together.own == together.num_bytes, "nothing is kept alive outside the checkpoints"
    assert read_all(epath.Path(workdir) / "checkpoints")[0].keys() == expected.keys()
