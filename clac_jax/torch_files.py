"""Reads files written by `torch.save`, without PyTorch and without running what they contain.

Such a file holds a pickle, and a pickle is a program. Here it may name a short list of harmless
things and nothing else; objects of other libraries that are pure data become `Inert`.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from clac_jax.errors import UserError

_DTYPES = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
# How files from before PyTorch 1.6 begin: a number, a version and facts about the machine.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C


class TorchFileError(UserError, ValueError):
    """A file cannot be read, or names something that is not plain data."""


class Inert:
    """Stands for an object that is data: its state is kept, its class is never imported.

    Attributes:
        name: "module.Class" in the file.
        args: what it would have been called with.
        state: what it would have been given as its state.
    """

    name = ""

    def __init__(self, *args: Any):
        """Keeps the arguments."""
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        """Keeps the state."""
        self.state = state


def read_torch_file(path: str | Path) -> Any:
    """The content of a file written by `torch.save`.

    Returns:
        The saved object: dicts, lists, numbers and strings as they were, each tensor as an
        ndarray of its type (bfloat16 as ml_dtypes' own), OmegaConf containers as dicts and lists.
        Tensors that were one in memory, like tied weights, are one ndarray.

    Raises:
        TorchFileError: the file is missing, is no such file, is damaged, or names a function or a
            class that is not on the list of harmless ones; says which.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            content = _read_zip(file) if zipfile.is_zipfile(file) else _read_old(file)
    except OSError as error:
        raise TorchFileError(f"{path} cannot be read ({error}). Give another file.") from error
    except _Refused as error:
        raise TorchFileError(
            f"{path} names {error}, which is not plain data, so it is not opened: loading it could "
            "run any program. Save its state dict alone, or convert it to safetensors."
        ) from error
    except (*_DAMAGED, RecursionError) as error:
        raise TorchFileError(
            f"{path} is damaged or was not written by torch.save "
            f"({type(error).__name__}: {error}). Copy or download it again."
        ) from error
    return _plain(content)


_DAMAGED = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, IndexError, ValueError,
    TypeError, AttributeError, OverflowError, MemoryError, NotImplementedError,
)  # fmt: skip


class _Refused(Exception):
    """A pickle names something outside the list."""


class _StorageType:
    def __init__(self, name: str):
        self.dtype = np.dtype(_DTYPES[name])


class _Storage:
    """Numbers that may not be read yet, and the arrays that show them."""

    def __init__(self, read: Callable[[], np.ndarray]):
        self._read = read
        self._numbers: np.ndarray | None = None
        self.views: dict[Any, np.ndarray] = {}

    def numbers(self) -> np.ndarray:
        if self._numbers is None:
            self._numbers = self._read()
        return self._numbers


class _Tensor:
    """A view of a storage."""

    def __init__(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: Any):
        self.storage, self.offset = storage, offset
        self.size, self.stride = tuple(map(int, size)), tuple(map(int, stride))

    def __setstate__(self, state: Any) -> None:
        """A tensor's Python attributes are of no interest."""

    def array(self) -> np.ndarray:
        view = self.offset, self.size, self.stride
        if view not in self.storage.views:
            self.storage.views[view] = self._view()
        return self.storage.views[view]

    def _view(self) -> np.ndarray:
        values = self.storage.numbers()
        reach = self.offset + sum(
            (n - 1) * step for n, step in zip(self.size, self.stride, strict=True)
        )
        empty = 0 in self.size
        if self.offset < 0 or min(self.stride, default=0) < 0 or min(self.size, default=0) < 0:
            raise ValueError("a tensor has a negative size, stride or offset")
        if not empty and reach >= values.size:
            raise ValueError(f"a tensor reaches beyond its storage of {values.size} numbers")
        if empty:
            return np.zeros(self.size, values.dtype)
        steps = tuple(step * values.itemsize for step in self.stride)
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.size, steps).copy()


def _parameter(data: Any, *_: Any) -> Any:
    return data


_HARMLESS: Mapping[str, Any] = {
    "collections.OrderedDict": collections.OrderedDict,
    "collections.defaultdict": collections.defaultdict,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "typing.Any": object,
    **{
        f"{module}.{kind.__name__}": kind
        for module in ("__builtin__", "builtins")
        for kind in (dict, list, tuple, set, int, float, str, bool, complex)
    },
    "__builtin__.long": int,
    "torch.Size": tuple,
}
_INERT = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.",
)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, load_storage: Callable[[Any], _Storage]):
        super().__init__(file, encoding="utf-8")
        self._load_storage = load_storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _HARMLESS:
            return _HARMLESS[full]
        if module == "torch" and name in _DTYPES:
            return _StorageType(name)
        if full.startswith(_INERT):
            return type("Inert", (Inert,), {"name": full})
        raise _Refused(full)

    def persistent_load(self, pid: Any) -> _Storage:
        return self._load_storage(pid)


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} members are named data.pkl instead of one")
        root = pickles[0].removesuffix("data.pkl")
        order = "little"
        if root + "byteorder" in archive.namelist():
            order = archive.read(root + "byteorder").decode()
        storages: dict[str, _Storage] = {}

        def load_storage(pid: Any) -> _Storage:
            _, kind, key, _, count = pid

            def read() -> np.ndarray:
                # zipfile compares the CRC.
                return _numbers(archive.read(f"{root}data/{key}"), kind, count, order)

            return storages.setdefault(key, _Storage(read))

        content = _Unpickler(io.BytesIO(archive.read(pickles[0])), load_storage).load()
        return _with_arrays(content)


def _read_old(file: BinaryIO) -> Any:
    """From before PyTorch 1.6: pickles one after the other, then the numbers of all storages."""

    def refuse(pid: Any) -> Any:
        raise ValueError("a storage stands outside the saved object")

    file.seek(0)
    if _Unpickler(file, refuse).load() != _OLD_MAGIC:
        raise ValueError("it does not begin like such a file")
    _Unpickler(file, refuse).load()  # the version of the protocol
    order = "little" if _Unpickler(file, refuse).load().get("little_endian", True) else "big"
    kinds: dict[str, tuple[_StorageType, int]] = {}
    numbers: dict[str, np.ndarray] = {}
    storages: dict[str, _Storage] = {}

    def load_storage(pid: Any) -> _Storage:
        _, kind, key, _, count, view = pid
        if view is not None:
            raise ValueError("a storage is a view of another, which is not supported")
        kinds[key] = kind, count
        return storages.setdefault(key, _Storage(lambda: numbers[key]))

    content = _Unpickler(file, load_storage).load()
    for key in _Unpickler(file, refuse).load():
        kind, count = kinds[key]
        (stored,) = np.frombuffer(file.read(8), "<i8" if order == "little" else ">i8")
        if stored != count:
            raise ValueError(f"storage {key} holds {stored} numbers instead of {count}")
        numbers[key] = _numbers(file.read(count * kind.dtype.itemsize), kind, count, order)
    return _with_arrays(content)


def _numbers(data: bytes, kind: _StorageType, count: int, order: str) -> np.ndarray:
    values = np.frombuffer(data, kind.dtype)
    if values.size != count:
        raise ValueError(f"a storage holds {values.size} numbers instead of {count}")
    return values.byteswap() if order == "big" else values


def _with_arrays(content: Any) -> Any:
    """The same with every tensor read."""
    return _walk(content, lambda leaf: leaf.array() if isinstance(leaf, _Tensor) else leaf)


def _plain(content: Any) -> Any:
    """The same with OmegaConf's containers as dicts and lists."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Inert) or not isinstance(leaf.state, dict):
            return leaf
        if "_content" in leaf.state:
            return _plain(leaf.state["_content"])
        return leaf.state.get("_val", leaf)

    return _walk(content, convert)


def _walk(content: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(content, Mapping):
        return {key: _walk(value, convert) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_walk(value, convert) for value in content)
    return convert(content)
