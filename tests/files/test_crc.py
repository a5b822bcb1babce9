"""Checksums: those of zlib, whichever library computes them."""

import importlib
import sys
import zlib

import numpy as np
import pytest

from clac_jax.files import crc


@pytest.fixture(params=["as installed", "without ISA-L"])
def module(request, monkeypatch):
    if request.param == "as installed":
        yield crc
        return
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "isal.isal_zlib", None)
        yield importlib.reload(crc)
    importlib.reload(crc)


@pytest.mark.parametrize("size", [0, 1, 7, 1000, (1 << 19) - 1, 1 << 19, (1 << 20) + 3])
def test_of_a_file_and_of_its_content(module, tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(content)
    expected = zlib.crc32(content)
    assert module.crc32(content) == expected
    assert module.file_crc32(tmp_path / "file") == expected
    half = size // 2
    assert module.crc32(content[half:], module.crc32(content[:half])) == expected


def test_isal_is_used_where_it_is_installed(module, request):
    library = "zlib" if "without" in request.node.callspec.params["module"] else "isal.isal_zlib"
    if library != "zlib":
        pytest.importorskip("isal")
    assert module.crc32.__module__ == library


def test_a_file_that_does_not_exist(tmp_path):
    with pytest.raises(FileNotFoundError):
        crc.file_crc32(tmp_path / "none")
