"""Small files are written atomically, and every failure has a helpful message."""

import os
import stat
from pathlib import Path

import pytest

from clac_jax.errors import WorkdirError
from clac_jax.files.atomic import check_writable, replacing, write_atomically


def test_text_and_bytes_replace_existing_content(tmp_path):
    path = tmp_path / "config.json"
    write_atomically(path, "old")
    write_atomically(path, b"n\xffew")
    assert path.read_bytes() == b"n\xffew"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    check_writable(tmp_path / "new" / "folder")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x")
    for name in ("file", "file/folder"):
        with pytest.raises(WorkdirError, match=r"Cannot write to .*/file.*: Not a directory\."):
            check_writable(tmp_path / name)


def test_the_mode_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_content_and_no_temporary_file(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text("old")

    def write_bytes(self, content):
        with open(self, "wb") as file:
            file.write(content[:2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(WorkdirError, match=r"config\.json: No space left .* free some space"):
        write_atomically(path, "new content")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_folder_in_its_place_is_named(tmp_path):
    (tmp_path / "report.png" / "inside").mkdir(parents=True)
    with pytest.raises(WorkdirError, match=r"report\.png: .*folder has the name"):
        write_atomically(tmp_path / "report.png", b"x")
    assert (tmp_path / "report.png" / "inside").is_dir()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(WorkdirError, match=r"nothing/config\.json: No such file"):
        write_atomically(tmp_path / "nothing" / "config.json", "x")


def test_an_error_of_the_writer_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "report.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_bytes(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []
