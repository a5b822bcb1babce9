"""Checksums of local files."""

import zlib

from clac_jax.files import checksum
from clac_jax.files.checksum import file_crc32, is_intact


def test_a_file_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(checksum, "_CHUNK", 7)
    (tmp_path / "file").write_bytes(b"more than one piece")
    assert file_crc32(tmp_path / "file") == zlib.crc32(b"more than one piece")


def test_only_the_same_bytes_are_intact(tmp_path):
    path, facts = tmp_path / "file", (4, zlib.crc32(b"data"))
    assert not is_intact(path, facts)
    for content, expected in {b"data": True, b"date": False, b"data ": False}.items():
        path.write_bytes(content)
        assert is_intact(path, facts) == expected
    assert not is_intact(tmp_path, facts), "a folder"
