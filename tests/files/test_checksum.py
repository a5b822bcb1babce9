"""Files on this machine are intact, or not."""

import zlib

from clac_jax.files.checksum import is_intact


def test_only_the_same_bytes_are_intact(tmp_path):
    path, facts = tmp_path / "file", (4, zlib.crc32(b"data"))
    assert not is_intact(path, facts)
    for content, expected in {b"data": True, b"date": False, b"data ": False}.items():
        path.write_bytes(content)
        assert is_intact(path, facts) == expected
    assert not is_intact(tmp_path, facts), "a folder"
