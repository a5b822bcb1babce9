"""Reads files written by `torch.save`, without PyTorch and without running what they contain.

Such a file holds a pickle, which `plain_pickle` reads as data: it may name a short list of harmless
things and nothing else. What is read is never larger than the file.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
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
# How files from before PyTorch 1.6 begin: a number, a version and facts about the machine.
_OLD_MAGIC = 0x1950A86A20F9469CFC6C
_MAX_PICKLE = 1 << 28  # bytes, of which a tensor takes about 200
_MAX_DEPTH = 100  # of containers in containers
# Numbers that tensors may show beyond those that the file holds, by strides of 0 and overlaps.
_MAX_REPEATED = 1 << 24


class TorchFileError(UserError, ValueError):
    """A file cannot be read, or names something that is not plain data."""


def read_torch_file(path: str | Path) -> Any:
    """The content of a file written by `torch.save`.

    Returns:
        The saved object: dicts, lists, numbers and strings as they were, each tensor as a read-only
        ndarray of its type (bfloat16 as ml_dtypes' own), OmegaConf containers as dicts and lists.
        Tensors that were one in memory, like tied weights, are one ndarray; those that were views
        of one storage still are, so that they take no more memory than in the file.

    Raises:
        TorchFileError: the file is missing, is not such a file, is damaged, or names a function or
            a class that is not on the list of harmless ones; says which.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise TorchFileError(f"{path} is not a file. Give a file that torch.save wrote.")
        with path.open("rb") as file:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_old(file)
    except OSError as error:
        reason = error_reason(error)
        raise TorchFileError(f"{path} cannot be read ({reason}). Give another file.") from error
    except NotPlainDataError as error:
        raise TorchFileError(
            f"{path} names {one_line(error)}, which is not plain data, so it is not opened: "
            "loading it could run any program. Save only its state dict, or convert it to "
            "safetensors."
        ) from error
    except TorchFileError:
        raise
    except _DAMAGED as error:
        raise TorchFileError(
            f"{path} is damaged or was not written by torch.save "
            f"({type(error).__name__}: {one_line(error)}). Copy or download it again."
        ) from error


# What zipfile, NumPy and the pickle's reader raise for bytes that make no sense; RuntimeError is
# zipfile's for a member that is encrypted, and Python's for what is nested too deep.
_DAMAGED = (
    zipfile.BadZipFile, zlib.error, EOFError, KeyError, IndexError, ValueError, TypeError,
    AttributeError, OverflowError, MemoryError, RuntimeError,
)  # fmt: skip


class _Storage:
    """Numbers that may not be read yet, and the arrays that show them."""

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
        self.storage, self.offset = storage, _whole(offset)
        self.size, self.stride = tuple(map(_whole, size)), tuple(map(_whole, stride))

    def array(self, shown: _Shown) -> np.ndarray:
        view = self.offset, self.size, self.stride
        if view not in self.storage.views:
            self.storage.views[view] = self._view(shown)
        return self.storage.views[view]

    def _view(self, shown: _Shown) -> np.ndarray:
        dimensions = list(zip(self.size, self.stride, strict=True))
        if self.offset < 0 or any(n < 0 or step < 0 for n, step in dimensions):
            raise ValueError("a tensor has a negative size, stride or offset")
        values = self.storage.numbers()
        count = math.prod(self.size)
        if count == 0:
            return np.zeros(self.size, values.dtype)
        reach = self.offset + sum((n - 1) * step for n, step in dimensions)
        if reach >= values.size:
            raise ValueError(f"a tensor reaches beyond its storage of {values.size} numbers")
        shown.add(count, values.size)
        # The step of a dimension of one item is never taken, and may be any number.
        steps = tuple(step * values.itemsize if n > 1 else 0 for n, step in dimensions)
        # NumPy compares the reach with the buffer once more; bytes, as it knows no bfloat16 there.
        start = self.offset * values.itemsize
        array = np.ndarray(self.size, values.dtype, values.view(np.uint8).data, start, steps)
        array.flags.writeable = False
        return array


class _Shown:
    """Counts what tensors show beyond what the file holds."""

    def __init__(self) -> None:
        self._repeated = 0

    def add(self, count: int, stored: int) -> None:
        self._repeated += max(0, count - stored)
        if self._repeated > _MAX_REPEATED:
            raise ValueError(
                f"its tensors repeat stored numbers: {count:,} are shown of {stored:,}"
            )


def _whole(value: Any) -> int:
    if not isinstance(value, int):
        raise ValueError(f"a size, stride or offset is a {type(value).__name__}")
    return int(value)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": tuple,
}
# Named as the types of values, never called.
_HARMLESS = {
    "typing.Any",
    *(f"{module}.{kind}" for module in ("__builtin__", "builtins") for kind in
      ("int", "long", "float", "str", "bool", "object")),
    *(f"torch.{name}" for name in _DTYPES),
}  # fmt: skip
_INERT = (
    "omegaconf.dictconfig.DictConfig",
    "omegaconf.listconfig.ListConfig",
    "omegaconf.base.ContainerMetadata",
    "omegaconf.base.Metadata",
    "omegaconf.nodes.",
)


def _is_harmless(name: str) -> bool:
    return name in _HARMLESS or name.startswith(_INERT)


def _load(file: BinaryIO, load_storage: Callable[[Any], _Storage]) -> Any:
    return read_pickle(file, _CALLS, _is_harmless, load_storage)


def _parts(pid: Any, number: int) -> tuple[np.dtype, str, int, Any]:
    """Number type, key, count and what comes after them of a storage's persistent id."""
    if not isinstance(pid, tuple) or len(pid) != number or pid[0] != "storage":
        raise ValueError("it refers to something that is not a storage")
    kind, key, count = pid[1], pid[2], pid[4]
    if not isinstance(kind, Named) or kind.name.rpartition(".")[2] not in _DTYPES:
        raise ValueError("a storage has no number type")
    if not isinstance(key, str) or not isinstance(count, int) or count < 0:
        raise ValueError("a storage has no name or no size")
    return np.dtype(_DTYPES[kind.name.rpartition(".")[2]]), key, count, pid[5:]


def _read_zip(file: BinaryIO) -> Any:
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
            """A member; torch.save compresses none, so all of them together fit the file."""
            nonlocal left
            info = archive.getinfo(name)
            if info.file_size > most:
                raise ValueError(f"its member {name} has {info.file_size} bytes instead of {most}")
            is_stored = info.compress_type == zipfile.ZIP_STORED
            if not is_stored or info.compress_size != info.file_size or info.file_size > left:
                raise ValueError(f"its member {name} is compressed, or larger than the file")
            left -= info.file_size
            return archive.read(info)  # zipfile compares the CRC

        order = "little"
        if root + "byteorder" in names:
            order = read_member(root + "byteorder").decode()
        storages: dict[str, _Storage] = {}

        def load_storage(pid: Any) -> _Storage:
            dtype, key, count, _ = _parts(pid, 5)

            def read() -> np.ndarray:
                data = read_member(f"{root}data/{key}", count * dtype.itemsize)
                return _numbers(data, dtype, count, order)

            return _known(storages, key, dtype, count, read)

        with io.BytesIO(read_member(pickles[0])) as content:
            return _plain(_load(content, load_storage))


def _read_old(file: BinaryIO) -> Any:
    """From before PyTorch 1.6: pickles one after the other, then the numbers of all storages."""

    def refuse(pid: Any) -> Any:
        raise ValueError("a storage stands outside the saved object")

    size = file.seek(0, 2)
    file.seek(0)
    if _load(file, refuse) != _OLD_MAGIC:
        raise ValueError("it does not begin like such a file")
    _load(file, refuse)  # the version of the protocol
    order = "little" if _load(file, refuse).get("little_endian", True) else "big"
    kinds: dict[str, tuple[np.dtype, int]] = {}
    numbers: dict[str, np.ndarray] = {}
    storages: dict[str, _Storage] = {}

    def load_storage(pid: Any) -> _Storage:
        dtype, key, count, (view,) = _parts(pid, 6)
        if view is not None:
            raise ValueError("a storage is a view of another, which is not supported")
        kinds[key] = dtype, count
        return _known(storages, key, dtype, count, lambda: numbers[key])

    content = _load(file, load_storage)
    keys = _load(file, refuse)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("its storages have no names")
    if len(set(keys)) != len(keys):
        raise ValueError("a storage is stored twice")
    for key in keys:
        dtype, count = kinds[key]
        (stored,) = np.frombuffer(file.read(8), "<i8" if order == "little" else ">i8")
        if stored != count or count * dtype.itemsize > size:
            raise ValueError(f"storage {key} holds {stored} numbers instead of {count}")
        numbers[key] = _numbers(file.read(count * dtype.itemsize), dtype, count, order)
    return _plain(content)


def _known(
    storages: dict[str, _Storage],
    key: str,
    dtype: np.dtype,
    count: int,
    read: Callable[[], np.ndarray],
) -> _Storage:
    """The storage of a key, which is the same wherever it is named."""
    storage = storages.setdefault(key, _Storage(dtype, count, read))
    if (storage.dtype, storage.count) != (dtype, count):
        raise ValueError(f"storage {key} has two types or sizes")
    return storage


def _numbers(data: bytes, dtype: np.dtype, count: int, order: str) -> np.ndarray:
    if order not in _ORDERS:
        raise ValueError(f"its byte order is {order!r}")
    is_bool = dtype == np.bool_
    values = np.frombuffer(data, np.uint8 if is_bool else dtype)
    values = values != 0 if is_bool else values  # any byte but 0 is true
    if values.size != count:
        raise ValueError(f"a storage holds {values.size} numbers instead of {count}")
    return values.byteswap() if order == "big" else values


def _plain(content: Any) -> Any:
    """The same with every tensor as an array, and OmegaConf's containers as dicts and lists.

    An object that stands in several places is converted once: a list of two references to a list of
    two references and so on is small in memory. As a tree it is not, so its size as a tree is
    limited, for whoever walks the content next.
    """
    shown = _Shown()
    done: dict[int, _Node] = {}

    def convert(value: Any, depth: int) -> _Node:
        if isinstance(value, _Tensor):
            return _Node(value.array(shown), 1, 0)
        if not isinstance(value, dict | list | tuple | Inert):
            return _Node(value, 1, 0)
        if depth > _MAX_DEPTH:
            raise ValueError(f"it is nested more than {_MAX_DEPTH} deep")
        if id(value) not in done:
            node = converted(value, depth + 1)
            if node.size > MAX_INSTRUCTIONS or node.height > _MAX_DEPTH:
                raise ValueError("it contains itself")
            done[id(value)] = node
        return done[id(value)]

    def converted(value: Any, depth: int) -> _Node:
        if isinstance(value, Inert):
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
    """A converted value, the number of values in it as a tree, and how deep it is nested."""

    value: Any
    size: int
    height: int
