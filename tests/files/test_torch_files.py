"""Reading files of `torch.save` without PyTorch."""

import os
import pickle
import zipfile
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest
from helpers.torch_writer import STORAGES, save
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from clac_jax.files.torch import TorchFileError, read_torch_file


def assert_same(left, right):
    assert type(left) is type(right) or isinstance(left, dict)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key, value in left.items():
            assert_same(value, right[key])
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right


arrays = st.sampled_from([d for d in STORAGES if d != ml_dtypes.bfloat16]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
        elements={"allow_nan": False} if dtype.kind == "f" else None,
    )
)
plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(content=st.dictionaries(st.text(), arrays | plain | st.lists(plain)), old=st.booleans())
def test_saved_content_is_read_unchanged(tmp_path_factory, content, old):
    path = tmp_path_factory.mktemp("torch") / "file.bin"
    save(content, path, old)
    assert_same(read_torch_file(path), content)


@pytest.mark.parametrize("old", [False, True])
def test_views_of_one_storage(tmp_path, old):
    base = np.arange(24, dtype=np.float32)
    content = OrderedDict(
        weight=base,
        again=base,
        part=base[4:10],
        transposed=np.lib.stride_tricks.as_strided(base, (4, 6), (4, 16)),
        half=np.arange(3).astype(ml_dtypes.bfloat16),
    )
    content["transposed"] = np.ndarray((4, 6), np.float32, base, 0, (4, 16))
    save(content, tmp_path / "file.bin", old)
    found = read_torch_file(tmp_path / "file.bin")
    assert_same(found, content)
    assert found["again"] is found["weight"]  # tied weights


class Harm:
    def __reduce__(self):
        return os.mkdir, (os.environ["HARM"],)


@pytest.mark.parametrize("old", [False, True])
def test_code_in_a_file_is_named_and_not_executed(tmp_path, monkeypatch, old):
    monkeypatch.setenv("HARM", str(tmp_path / "harm"))
    save({"weights": np.ones(2), "x": Harm()}, tmp_path / "file.bin", old)
    with pytest.raises(
        TorchFileError, match=r"refers to (posix|nt)\.mkdir, which is not plain data"
    ):
        read_torch_file(tmp_path / "file.bin")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "name", ["builtins.eval", "builtins.getattr", "functools.partial", "torch._utils.anything"]
)
def test_other_names_are_refused(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    with zipfile.ZipFile(tmp_path / "file.bin", "w") as archive:
        archive.writestr("a/data.pkl", f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(TorchFileError, match=f"refers to {name}"):
        read_torch_file(tmp_path / "file.bin")


@pytest.mark.parametrize("old", [False, True])
def test_a_truncated_file_is_damaged(tmp_path, old):
    path = tmp_path / "file.bin"
    save({"a": np.arange(100.0), "b": [1, 2]}, path, old)
    data = path.read_bytes()
    for length in range(0, len(data), 37):
        path.write_bytes(data[:length])
        with pytest.raises(TorchFileError, match=r"file\.bin is damaged or was not written by"):
            read_torch_file(path)


def test_a_flipped_byte_of_a_zip_is_detected(tmp_path):
    path = tmp_path / "file.bin"
    save({"a": np.arange(100.0)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(np.arange(100.0).tobytes()) + 8] ^= 1
    path.write_bytes(data)
    with pytest.raises(TorchFileError, match="damaged"):
        read_torch_file(path)


@pytest.mark.parametrize(
    ("size", "stride"), [((5,), (1,)), ((2, 2), (3, 2)), ((-1,), (1,)), ((2,), (-1,))]
)
def test_a_tensor_cannot_extend_beyond_its_storage(tmp_path, size, stride):
    class Wrong:
        def __reduce__(self):
            import torch
            from helpers.torch_writer import _Storage

            arguments = (_Storage(np.zeros(4, np.float32)), 0, size, stride, False, OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    save({"a": Wrong()}, tmp_path / "file.bin")
    with pytest.raises(TorchFileError, match="damaged"):
        read_torch_file(tmp_path / "file.bin")


def test_a_missing_file_and_a_different_pickle_are_refused(tmp_path):
    with pytest.raises(TorchFileError, match="cannot be read"):
        read_torch_file(tmp_path / "none.bin")
    (tmp_path / "other.bin").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(TorchFileError, match=r"was not written by torch\.save"):
        read_torch_file(tmp_path / "other.bin")
