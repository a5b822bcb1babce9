"""A checkpoint that cannot be removed or moved does not disturb a run."""

import errno
import os
import shutil

import pytest
from etils import epath
from helpers.states import (
    epochs,
    make_config,
    save_run,
    small_arrays,
    small_shapes,
)

from clac_jax.checkpoint import removal
from clac_jax.checkpoint.layout import read_all, step_folders
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.cli import main as cli
from clac_jax.cli.ckpt import EXIT_TROUBLE
from clac_jax.training.progress import RunProgress

FAILURES = [errno.EBUSY, errno.EACCES]  # a file inside is open; no permission


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(removal, "PAUSE", 0.0)


def steps(workdir):
    return list(step_folders(epath.Path(workdir) / "checkpoints"))


def names(workdir):
    return {path.name for path in (workdir / "checkpoints").iterdir()}


def opened(workdir, **options):
    return Checkpoints(workdir, make_config(**options), small_shapes(), 100)


@pytest.fixture
def busy(monkeypatch):
    """(function, number) -> makes removals fail as on a network file system, until it is undone.

    "rmtree": a file inside is held open; "rename": the folder itself cannot be renamed.
    """

    def block(what, number):
        error = OSError(number, os.strerror(number))
        rmtree = shutil.rmtree

        def no_rmtree(path, *rest, **options):
            if "being_deleted" in str(path):
                raise error
            rmtree(path, *rest, **options)

        def refusing(rename):
            def no_rename(source, target, **options):
                if any(part in str(target) for part in ("being_deleted", "/damaged/")):
                    raise error
                rename(source, target, **options)

            return no_rename

        if what == "rmtree":
            monkeypatch.setattr(shutil, "rmtree", no_rmtree)
        else:  # our modules and Orbax
            monkeypatch.setattr(os, "rename", refusing(os.rename))
            monkeypatch.setattr(os, "replace", refusing(os.replace))

    return block


@pytest.mark.parametrize("number", FAILURES)
@pytest.mark.parametrize("what", ["rmtree", "rename"])
def test_a_checkpoint_that_cannot_be_removed_is_a_warning_and_is_tried_again(
    tmp_path, busy, monkeypatch, capsys, what, number
):
    save_run(tmp_path, epochs(0.5, 0.4))
    busy(what, number)
    checkpoints = opened(tmp_path, save_top_k=1, retries=0, async_save=False)
    for step in (30, 40, 50):
        checkpoints.save(small_arrays(), RunProgress(step=step), None)
    warnings = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert f"checkpoints/{'being_deleted/10' if what == 'rmtree' else '10'}" in warnings[0]
    assert os.strerror(number) in warnings[0] and "tried again" in warnings[0]
    assert len(warnings) == len(set(warnings)), "the same is not said after every save"
    assert {20, 50} <= set(steps(tmp_path))
    checkpoints.close()

    opened(tmp_path).close()  # starts while it still cannot be removed
    monkeypatch.undo()
    checkpoints = opened(tmp_path, save_top_k=1, async_save=False)
    checkpoints.save(small_arrays(), RunProgress(step=60), None)
    checkpoints.close()
    assert names(tmp_path) == {"20", "60"}


def test_a_removal_that_fails_never_leaves_half_a_checkpoint(tmp_path, monkeypatch):
    """It is renamed first; a kill or an error in between leaves nothing that looks like a step."""
    save_run(tmp_path, epochs(0.5, 0.4))

    def half(path, *rest):
        (path / "files.json").unlink(missing_ok=True)
        raise OSError(errno.EBUSY, "busy")

    monkeypatch.setattr(removal.shutil, "rmtree", half)
    directory = epath.Path(tmp_path) / "checkpoints"
    assert removal.discard(directory, directory / "10")
    assert read_all(directory)[1] == {}
    assert steps(tmp_path) == [20]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_save_cut_off_before_the_list_of_files_was_never_there(tmp_path, capsys, is_replaced):
    """Orbax has committed the step by then, and older steps have not been removed."""
    save_run(tmp_path, epochs(0.5, 0.4))
    directory = tmp_path / "checkpoints"
    cut = directory / "20" if is_replaced else directory / "30"
    shutil.copytree(directory / "10", directory / "copy", ignore=lambda *_: ["files.json"])
    if is_replaced:
        (directory / "being_replaced").mkdir()
        cut.rename(directory / "being_replaced" / "20")
    (directory / "copy").rename(cut)
    (directory / f"{cut.name}.unfinished").write_text("")
    intact, damaged = read_all(epath.Path(directory))
    assert (list(intact), damaged) == ([10] if is_replaced else [10, 20], {})
    opened(tmp_path).close()
    assert names(tmp_path) == {"10", "20"}
    assert list(read_all(epath.Path(directory))[0]) == [10, 20]
    assert "warning" not in capsys.readouterr().err


def test_a_list_of_files_that_was_lost_is_damage(tmp_path):
    save_run(tmp_path, epochs(0.5, 0.4))
    (tmp_path / "checkpoints" / "20" / "files.json").unlink()
    intact, damaged = read_all(epath.Path(tmp_path) / "checkpoints")
    assert list(intact) == [10] and "files.json is missing" in str(damaged[20])


def test_a_replaced_and_half_removed_checkpoint_is_never_used(tmp_path, monkeypatch):
    save_run(tmp_path, epochs(0.5))
    directory = epath.Path(tmp_path) / "checkpoints"
    (directory / "being_replaced").mkdir()
    shutil.copytree(directory / "10", directory / "being_replaced" / "10")

    def fail(path, *rest):
        raise OSError(errno.EBUSY, "busy")

    with monkeypatch.context() as patch:
        patch.setattr(removal.shutil, "rmtree", fail)
        removal.finish_interrupted(directory)
    assert list((directory / "being_replaced").iterdir()) == []
    os.rename(directory / "10", directory / "kept_elsewhere")
    removal.finish_interrupted(directory)
    assert steps(tmp_path) == []


def test_rm_says_what_it_could_not_remove(tmp_path, busy, capsys):
    save_run(tmp_path, epochs(0.5, 0.4))
    busy("rename", errno.EACCES)
    assert cli.main(["ckpt", "rm", str(tmp_path), "10"]) == EXIT_TROUBLE
    captured = capsys.readouterr()
    assert "checkpoints/10 cannot be removed: Permission denied" in captured.err
    assert captured.out == "" and steps(tmp_path) == [10, 20]


def test_damaged_ones_are_set_aside_on_the_disk_of_the_checkpoints(tmp_path):
    """If `checkpoints` links to another file system, nothing can be renamed out of it."""
    save_run(tmp_path / "scratch", epochs(0.5, 0.4))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "scratch" / "checkpoints")
    Checkpoints(tmp_path / "run", make_config(), small_shapes(), 100, damaged=[20]).close()
    assert (tmp_path / "scratch" / "checkpoints" / "damaged" / "20" / "files.json").exists()
    assert steps(tmp_path / "run") == [10]


def test_one_that_cannot_be_set_aside_is_left_and_passed_over(tmp_path, busy, capsys):
    save_run(tmp_path, epochs(0.5, 0.4))
    os.remove(tmp_path / "checkpoints" / "20" / "run" / "metadata")
    busy("rename", errno.EXDEV)
    checkpoints = Checkpoints(
        tmp_path, make_config(async_save=False), small_shapes(), 100, damaged=[20]
    )
    assert "checkpoints/20 is damaged and cannot be set aside" in capsys.readouterr().err
    checkpoints.save(small_arrays(), RunProgress(step=30), None)
    checkpoints.close()
    intact, damaged = read_all(epath.Path(tmp_path) / "checkpoints")
    assert (list(intact), list(damaged)) == ([10, 30], [20])


def test_files_and_links_are_removed_like_folders(tmp_path):
    target = tmp_path / "elsewhere"
    target.mkdir()
    (target / "file").write_text("mine")
    for make in (
        lambda path: path.write_text("x"),
        lambda path: path.symlink_to(target),
        lambda path: path.symlink_to(path),
        lambda path: (path / "deep" / "er").mkdir(parents=True),
        lambda path: None,
    ):
        path = tmp_path / "thing"
        make(path)
        removal.remove(path)
        assert not os.path.lexists(path)
    assert (target / "file").read_text() == "mine"
