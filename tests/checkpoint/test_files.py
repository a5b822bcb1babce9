"""Damage to any file of a checkpoint is detected, and the file is named."""

import jax
import pytest
from etils import epath
from helpers.damage import DAMAGES
from helpers.states import assert_same, epochs, make_state, save_run

from clac_jax.checkpoint import files
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.files import DamagedCheckpointError, check_files
from clac_jax.checkpoint.layout import read_info


@pytest.fixture
def folder(tmp_path):
    save_run(tmp_path, epochs(0.5))
    return tmp_path / "checkpoints" / "10"


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_file_is_covered(folder, damage):
    assert len(files_of(folder)) >= 8
    check_files(epath.Path(folder), every_byte=True)
    for path in files_of(folder):
        before = path.read_bytes()
        DAMAGES[damage](path)
        with pytest.raises(DamagedCheckpointError) as error:
            check_files(epath.Path(folder), every_byte=True)
        assert path.name in str(error.value)
        with pytest.raises(DamagedCheckpointError):
            read_info(epath.Path(folder))
        path.write_bytes(before)
    check_files(epath.Path(folder), every_byte=True)


@pytest.mark.parametrize("damage", DAMAGES)
def test_large_files_are_verified_by_the_arrays_read_from_them(folder, damage, monkeypatch):
    monkeypatch.setattr(files, "SMALL_FILE", 0)  # treat every file as large
    info = read_info(epath.Path(folder))
    expected = read_arrays(info, info.leaves)
    damaged = 0
    for path in files_of(folder / "state"):
        before = path.read_bytes()
        DAMAGES[damage](path)
        try:
            arrays = read_arrays(info, info.leaves)
        except DamagedCheckpointError as error:
            assert path.name in str(error)
            damaged += 1
        else:  # the file is not needed for these arrays
            assert_same(arrays, expected)
        path.write_bytes(before)
    assert damaged


def test_only_the_wanted_arrays_are_read(tmp_path, monkeypatch):
    """A partial read is not affected by damage in the files of other arrays."""
    monkeypatch.setattr(files, "SMALL_FILE", 0)
    params = {name: jax.random.normal(jax.random.key(k), (300, 300)) for k, name in enumerate("ab")}
    saved = save_run(tmp_path, epochs(0.5), state=lambda seed: make_state(params=params))[10]
    info = read_info(epath.Path(tmp_path) / "checkpoints" / "10")
    outcomes = set()
    # Depending on the timing of the writer threads, the arrays share a file or have one each.
    for large in files_of(tmp_path / "checkpoints"):
        content = large.read_bytes()
        if len(content) < 100_000:
            continue
        for part in range(1, 8):
            damaged = bytearray(content)
            damaged[len(content) * part // 8] ^= 1
            large.write_bytes(damaged)
            outcomes.add(tuple(is_right(info, f"params/{name}", saved) for name in "ab"))
        large.write_bytes(content)
    assert {(True, False), (False, True)} <= outcomes


def is_right(info, path, saved):
    """Whether an array can be read; asserts that it is never read wrongly."""
    try:
        arrays = read_arrays(info, [path])
    except DamagedCheckpointError:
        return False
    assert_same(arrays, {path: saved[path]})
    return True
