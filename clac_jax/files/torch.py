"""Reader of `torch.save` files that neither needs PyTorch nor executes their code.

Such a file contains a pickle, which `plain_pickle` reads as data: it may refer only to a short list
of harmless names. The memory for the result is bounded by the size of the file.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from clac_jax.errors import UserError, error_reason, one_line
from clac_jax.files.plain_pickle import (
    MAX_INSTRUCTIONS,
    Inert,
    Named,
    NotPlainDataError,
    read_pickle,
)

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
_ORDERS = ("little", "big")
# Files from before PyTorch 1.6 start with this number, a version and facts about the machine.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PICKLE = 1 << 28  # bytes; a tensor takes about 200
_MAX_DEPTH = 100  # of nested containers
# Limit for elements that tensors repeat, by strides of 0 and overlaps, beyond those in the file.
_MAX_REPEATED = 1 << 24


class TorchFileError(UserError, ValueError):
    """A file cannot be read, or refers to something that is not plain data."""


class TensorFacts(NamedTuple):
    """A tensor that was not read.

    Attributes:
        shape: its shape.
        dtype: its dtype.
    """

    shape: tuple[int, ...]
    dtype: np.dtype


def read_torch_file(path: str | Path, *, with_numbers: bool = True) -> Any:
    """Reads a file written by `torch.save`.

    Args:
        path: path of the file.
        with_numbers: whether the tensors are read; if not, each is a `TensorFacts`.

    Returns:
        The saved object: dicts, lists, numbers and strings; tensors as read-only ndarrays of the
        same dtype (bfloat16 as `ml_dtypes.bfloat16`); OmegaConf containers as dicts and lists. A
        tensor that occurs repeatedly, like tied weights, is one ndarray, and views of one storage
        still share memory.

    Raises:
        TorchFileError: the file is missing, damaged, not written by `torch.save`, or refers to a
            function or class that is not on the list, which the message names.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise TorchFileError(f"{path} is not a file. Use a file written by torch.save.")
        with path.open("rb") as file:
            read = _read_zip if zipfile.is_zipfile(file) else _read_old
            return read(file, with_numbers)
    except OSError as error:
        reason = error_reason(error)
        raise TorchFileError(f"{path} cannot be read ({reason}). Check the path.") from error
    except NotPlainDataError as error:
        raise TorchFileError(
            f"{path} refers to {one_line(error)}, which is not plain data. It was not loaded, "
            "because that could run arbitrary code. Save only the state dict, or convert the file "
            "to safetensors."
        ) from error
    except TorchFileError:
        raise
    except _DAMAGED as error:
        raise TorchFileError(
            f"{path} is damaged or was not written by torch.save "
            f"({type(error).__name__}: {one_line(error)}). Copy or download it again."
        ) from error


# Errors of zipfile, NumPy and the pickle reader for invalid bytes. RuntimeError is that of zipfile
# for an encrypted member, and of Python for deep nesting.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, IndexError, ValueError, TypeError,
    AttributeError, OverflowError, MemoryError, RuntimeError,
)  # fmt: skip


class _Storage:
    """A storage that is read when first needed, and the arrays that are views of it."""

    def __init__(self, dtype: np.dtype, count: int, read: Callable[[], np.ndarray]):
        self.dtype, self.count = dtype, count
        self._read = read
        self._numbers: np.ndarray | None = None
        self.views: dict[Any, np.ndarray] = {}

    def numbers(self) -> np.ndarray:
        if self._numbers is None:
            self._numbers = self._read()
        return self._numbers


class _Tensor:
    """A view of a storage."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_: Any):
        if not isinstance(storage, _Storage):
            raise ValueError("a tensor has no storage")
        self.storage, self.offset = storage, _as_int(offset)
        self.size, self.stride = tuple(map(_as_int, size)), tuple(map(_as_int, stride))

    def array(self, counter: _RepeatCounter) -> np.ndarray:
        view = self.offset, self.size, self.stride
        if view not in self.storage.views:
            self.storage.views[view] = self._view(counter)
        return self.storage.views[view]

    def _view(self, counter: _RepeatCounter) -> np.ndarray:
        dimensions = list(zip(self.size, self.stride, strict=True))
        if self.offset < 0 or any(n < 0 or step < 0 for n, step in dimensions):
            raise ValueError("a tensor has a negative size, stride or offset")
        values = self.storage.numbers()
        count = math.prod(self.size)
        if count == 0:
            return np.zeros(self.size, values.dtype)
        reach = self.offset + sum((n - 1) * step for n, step in dimensions)
        if reach >= values.size:
            raise ValueError(f"a tensor extends beyond its storage of {values.size} elements")
        counter.add(count, values.size)
        # The stride of a dimension of length 1 is never used and may be any number.
        steps = tuple(step * values.itemsize if n > 1 else 0 for n, step in dimensions)
        # NumPy checks the bounds again. The buffer must be bytes, as it may not be bfloat16.
        start = self.offset * values.itemsize
        array = np.ndarray(self.size, values.dtype, values.view(np.uint8).data, start, steps)
        array.flags.writeable = False
        return array


class _RepeatCounter:
    """Counts the elements that tensors repeat beyond those in the file."""

    def __init__(self) -> None:
        self._repeated = 0

    def add(self, count: int, stored: int) -> None:
        self._repeated += max(0, count - stored)
        if self._repeated > _MAX_REPEATED:
            raise ValueError(f"its tensors repeat stored elements: {count:,} from {stored:,}")


def _as_int(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"a size, stride or offset is a {type(value).__name__}")
    return int(value)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": tuple,
}
# Types of values, which are never called.
_HARMLESS = {
    "typing.Any",
    *(f"{module}.{kind}" for module in ("__builtin__", "builtins") for kind in
      ("int", "long", "float", "str", "bool", "object")),
    *(f"torch.{name}" for name in _DTYPES),
}  # fmt: skip
_PATHS = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_INERT = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.",
    *(f"pathlib.{local}{kind}" for local in ("", "_local.") for kind in _PATHS),
    # A scalar of NumPy: a function, its dtype, and bytes as a string.
    *(f"numpy.{core}.multiarray.scalar" for core in ("core", "_core")),
    "numpy.dtype",
    "_codecs.encode",
)


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith(_INERT)


def _load(file: BinaryIO, load_storage: Callable[[Any], _Storage]) -> Any:
    return read_pickle(file, _CALLS, _is_harmless, load_storage)


def _parse_storage_id(pid: Any, number: int) -> tuple[np.dtype, str, int, Any]:
    """Dtype, key, number of elements, and further items of the persistent id of a storage."""
    if not isinstance(pid, tuple) or len(pid) != number or pid[0] != "storage":
        raise ValueError("it refers to an object that is not a storage")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, Named) or kind.name.rpartition(".")[2] not in _DTYPES:
        raise ValueError("a storage has an unknown dtype")
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError("a storage has no key or no size")
    return np.dtype(_DTYPES[kind.name.rpartition(".")[2]]), key, count, pid[5:]


def _read_zip(file: BinaryIO, with_numbers: bool) -> Any:
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickles = [name for name in names if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"{len(pickles)} members are named data.pkl instead of one")
        if len(set(names)) != len(names):
            raise ValueError("two of its members have the same name")
        root = pickles[0].removesuffix("data.pkl")
        left = size

        def read_member(name: str, most: int = _MAX_PICKLE) -> bytes:
            """Reads a member; torch.save does not compress, so together they fit the file."""
            nonlocal left
            info = archive.getinfo(name)
            if info.file_size > most:
                raise ValueError(f"its member {name} has {info.file_size} bytes instead of {most}")
            is_stored = info.compress_type == zipfile.ZIP_STORED
            if not is_stored or info.compress_size != info.file_size or info.file_size > left:
                raise ValueError(f"its member {name} is compressed, or larger than the file")
            left -= info.file_size
            return archive.read(info)  # zipfile verifies the CRC

        order = "little"
        if root + "byteorder" in names:
            order = read_member(root + "byteorder").decode()
        storages: dict[str, _Storage] = {}

        def load_storage(pid: Any) -> _Storage:
            dtype, key, count, _ = _parse_storage_id(pid, 5)

            def read() -> np.ndarray:
                data = read_member(f"{root}data/{key}", count * dtype.itemsize)
                return _numbers(data, dtype, count, order)

            return _registered(storages, key, dtype, count, read)

        with io.BytesIO(read_member(pickles[0])) as content:
            return _plain(_load(content, load_storage), with_numbers)


def _read_old(file: BinaryIO, with_numbers: bool) -> Any:
    """Reads the format before PyTorch 1.6: several pickles, then the data of all storages."""

    def refuse(pid: Any) -> Any:
        raise ValueError("a storage is outside the saved object")

    size = file.seek(0, 2)
    file.seek(0)
    if _load(file, refuse) != _OLD_MAGIC:
        raise ValueError("it does not start with the magic number")
    _load(file, refuse)  # the version of the protocol
    order = "little" if _load(file, refuse).get("little_endian", True) else "big"
    kinds: dict[str, tuple[np.dtype, int]] = {}
    numbers: dict[str, np.ndarray] = {}
    storages: dict[str, _Storage] = {}

    def load_storage(pid: Any) -> _Storage:
        dtype, key, count, (view,) = _parse_storage_id(pid, 6)
        if view is not None:
            raise ValueError("a storage is a view of a different one, which is not supported")
        kinds[key] = dtype, count
        return _registered(storages, key, dtype, count, lambda: numbers[key])

    content = _load(file, load_storage)
    if not with_numbers:
        return _plain(content, with_numbers)
    keys = _load(file, refuse)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its storages have no keys")
    if len(set(keys)) != len(keys):
        raise ValueError("a storage is stored twice")
    for key in keys:
        dtype, count = kinds[key]
        (stored,) = np.frombuffer(file.read(8), "<i8" if order == "little" else ">i8")
        if stored != count or count * dtype.itemsize > size:
            raise ValueError(f"storage {key} has {stored} elements instead of {count}")
        numbers[key] = _numbers(file.read(count * dtype.itemsize), dtype, count, order)
    return _plain(content, with_numbers)


def _registered(
    storages: dict[str, _Storage],
    key: str,
    dtype: np.dtype,
    count: int,
    read: Callable[[], np.ndarray],
) -> _Storage:
    """The storage of a key, created once; its dtype and size must always be the same."""
    storage = storages.setdefault(key, _Storage(dtype, count, read))
    if (storage.dtype, storage.count) != (dtype, count):
        raise ValueError(f"storage {key} has conflicting dtypes or sizes")
    return storage


def _numbers(data: bytes, dtype: np.dtype, count: int, order: str) -> np.ndarray:
    if order not in _ORDERS:
        raise ValueError(f"its byte order is {order!r}")
    is_bool = dtype == np.bool_
    values = np.frombuffer(data, np.uint8 if is_bool else dtype)
    values = values != 0 if is_bool else values  # any byte except 0 is true
    if values.size != count:
        raise ValueError(f"a storage has {values.size} elements instead of {count}")
    return values.byteswap() if order == "big" else values


def _plain(content: Any, with_numbers: bool) -> Any:
    """Converts tensors to arrays, and OmegaConf containers to dicts and lists.

    An object that occurs repeatedly is converted once. Nested lists that repeat their items are
    small in memory but huge when traversed, so the number of values in a traversal is limited.
    """
    counter = _RepeatCounter()
    done: dict[int, _Node] = {}

    def convert(value: Any, depth: int) -> _Node:
        if isinstance(value, _Tensor):
            facts = TensorFacts(value.size, value.storage.dtype)
            return _Node(value.array(counter) if with_numbers else facts, 1, 0)
        if not isinstance(value, dict | list | tuple | Inert):
            return _Node(value, 1, 0)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
        if id(value) not in done:
            node = converted(value, depth + 1)
            if node.size > MAX_INSTRUCTIONS or node.height > _MAX_DEPTH:
                raise ValueError("it contains itself")
            done[id(value)] = node
        return done[id(value)]

    def converted(value: Any, depth: int) -> _Node:
        if isinstance(value, Inert):
            if value.name.startswith("pathlib."):
                return _Node(str(PurePath(*value.args)), 1, 0)
            state = value.state if isinstance(value.state, dict) else {}
            inner = next((state[key] for key in ("_content", "_val") if key in state), None)
            has_content = "_content" in state or "_val" in state
            return convert(inner, depth) if has_content else _Node(value, 1, 0)
        items = value.values() if isinstance(value, dict) else value
        nodes = [convert(item, depth) for item in items]
        size = 1 + sum(node.size for node in nodes)
        height = 1 + max((node.height for node in nodes), default=0)
        values = [node.value for node in nodes]
        if isinstance(value, dict):
            return _Node(dict(zip(value, values, strict=True)), size, height)
        return _Node(type(value)(values), size, height)

    return convert(content, 0).value


class _Node(NamedTuple):
    """A converted value, the number of values in a traversal, and its nesting depth."""

    value: Any
    size: int
    height: int
