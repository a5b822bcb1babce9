"""The real program with a compilation cache that is damaged, not writable or of other machines."""

import os

import pytest
from helpers.damage import DAMAGES
from helpers.workdirs import assert_equal_runs

pytestmark = pytest.mark.slow

FLAGS = (
    "--config.max_epochs=1",
    "--config.graph_encoder.name=composition",
    "--config.use_visual_intramodal_loss=False",
    "--config.use_textual_intramodal_loss=False",
)


def test_whatever_is_wrong_with_the_cache_the_run_has_the_same_bits(run, tmp_path):
    """Each run damages every file of the cache that the one before has left."""
    cache = tmp_path / "cache"
    flags = (*FLAGS, f"--config.compilation_cache={cache}")
    expected = tmp_path / "cold"
    assert run(expected, *flags).returncode == 0
    files = [path for path in cache.rglob("*") if path.is_file()]
    assert len(files) > 5
    for name, damage in [("warm", None), *DAMAGES.items()]:
        for path in files if damage else ():
            damage(path)
        done = run(tmp_path / name, *flags)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert_equal_runs(tmp_path / name, expected)
        assert [path for path in cache.rglob("*") if path.is_file()] == files


def test_a_cache_that_cannot_be_written_is_reported_and_changes_nothing(run, tmp_path):
    (tmp_path / "cache").write_text("not a folder")
    bad = f"--config.compilation_cache={tmp_path / 'cache'}"
    done = run(tmp_path / "bad", *FLAGS, bad)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Cannot keep compiled programs") == 1
    assert run(tmp_path / "good", *FLAGS).returncode == 0
    assert_equal_runs(tmp_path / "bad", tmp_path / "good")


def test_programs_of_other_kinds_are_neither_used_nor_changed(run, tmp_path):
    cache = tmp_path / "cache"
    flags = (*FLAGS, f"--config.compilation_cache={cache}")
    assert run(tmp_path / "first", *flags).returncode == 0
    (own,) = cache.iterdir()
    os.rename(own, cache / "cpu-of-another-kind")
    before = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    assert run(tmp_path / "second", *flags).returncode == 0
    assert_equal_runs(tmp_path / "second", tmp_path / "first")
    assert all(path.read_bytes() == content for path, content in before.items())
    assert own.is_dir()
