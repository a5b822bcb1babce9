"""Values kept between starts: damage and writers at the same time never change one."""

import threading

import pytest

from clac_jax.files import user_cache
from clac_jax.files.user_cache import cache_folder, read_checked, write_checked


@pytest.mark.parametrize("value", [b"", b"a value", bytes(range(256)) * 10])
def test_a_value_is_read_as_it_was_written(tmp_path, value):
    path = tmp_path / "new" / "value"
    assert read_checked(path) is None
    write_checked(path, value)
    assert read_checked(path) == value
    write_checked(path, b"another")
    assert read_checked(path) == b"another"
    assert list(path.parent.iterdir()) == [path]


def test_damage_of_any_byte_and_any_length_is_noticed(tmp_path):
    path = tmp_path / "value"
    write_checked(path, b"a value")
    content = path.read_bytes()
    for place in range(len(content)):
        broken = bytearray(content)
        broken[place] ^= 1
        path.write_bytes(broken)
        assert read_checked(path) is None
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert read_checked(path) is None


def test_a_value_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError):
        write_checked(tmp_path / "file" / "value", b"x")
    (tmp_path / "value").mkdir()
    with pytest.raises(OSError):
        write_checked(tmp_path / "value", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "value"]
    assert read_checked(tmp_path / "value") is None


def test_of_several_writers_one_value_stays_intact(tmp_path):
    values = [bytes([number]) * 200_000 for number in range(4)]
    seen = set()

    def write(value):
        for _ in range(20):
            write_checked(tmp_path / "value", value)
            seen.add(read_checked(tmp_path / "value"))

    threads = [threading.Thread(target=write, args=(value,)) for value in values]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen <= set(values)
    assert [path.name for path in tmp_path.iterdir()] == ["value"]


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path))
    assert cache_folder("sizes") == tmp_path / "sizes"
    monkeypatch.delenv("CLAC_JAX_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "clac-jax"


def test_the_hash_of_code_follows_the_code_and_the_versions(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "a.py").write_text("x = 1")
    monkeypatch.setattr(user_cache, "_PACKAGE", tmp_path)
    hashes = []
    for content, libraries in [("x = 1", ()), ("x = 2", ()), ("x = 2", ("numpy",))]:
        (tmp_path / "models" / "a.py").write_text(content)
        hashes.append(user_cache.code_hash.__wrapped__(("models",), libraries))
    assert len(set(hashes)) == 3
    assert hashes[1] == user_cache.code_hash.__wrapped__(("models",), ("not installed",))
