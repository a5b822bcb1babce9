"""Writes NumPy arrays in the format of `torch.save`, without PyTorch."""

from __future__ import annotations

import io
import pickle
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from contextlib import contextmanager

import ml_dtypes
import numpy as np

STORAGES = {
    np.dtype(np.float32): "FloatStorage",
    np.dtype(np.float64): "DoubleStorage",
    np.dtype(np.float16): "HalfStorage",
    np.dtype(ml_dtypes.bfloat16): "BFloat16Storage",
    np.dtype(np.int64): "LongStorage",
    np.dtype(np.int32): "IntStorage",
    np.dtype(np.uint8): "ByteStorage",
    np.dtype(np.bool_): "BoolStorage",
}


@contextmanager
def pretended_torch():
    """Fake modules with the names of PyTorch's, so that pickle can refer to them."""
    torch, inner = types.ModuleType("torch"), types.ModuleType("torch._utils")
    torch._utils = inner

    def _rebuild_tensor_v2(*args):
        raise AssertionError("written, never called")

    _rebuild_tensor_v2.__module__ = "torch._utils"
    _rebuild_tensor_v2.__qualname__ = "_rebuild_tensor_v2"
    inner._rebuild_tensor_v2 = _rebuild_tensor_v2
    for name in STORAGES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    saved = {name: sys.modules.get(name) for name in ("torch", "torch._utils")}
    sys.modules.update({"torch": torch, "torch._utils": inner})
    try:
        yield torch
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


class _Pickler(pickle.Pickler):
    def __init__(self, file, torch, old):
        super().__init__(file, protocol=2)
        self.torch, self.old, self.storages = torch, old, {}

    def persistent_id(self, item):
        if not isinstance(item, _Storage):
            return None
        key = self.storages.setdefault(id(item.data), (str(len(self.storages)), item.data))[0]
        kind = getattr(self.torch, STORAGES[item.data.dtype])
        pid = ("storage", kind, key, "cpu", item.data.size)
        return (*pid, None) if self.old else pid

    def reducer_override(self, item):
        if not isinstance(item, np.ndarray):
            return NotImplemented
        base = item if item.base is None else item.base
        if not isinstance(base, np.ndarray) or base.dtype != item.dtype:
            base = item = np.array(item)  # its memory belongs to a different object
        offset = (
            item.__array_interface__["data"][0] - base.__array_interface__["data"][0]
        ) // item.itemsize
        strides = tuple(step // item.itemsize for step in item.strides)
        arguments = (_Storage(base), offset, item.shape, strides, False, OrderedDict())
        return self.torch._utils._rebuild_tensor_v2, arguments


class _Storage:
    def __init__(self, data):
        self.data = data


def save(content, path, old=False):
    """`torch.save(content, path)`, or its format before PyTorch 1.6; views share storage."""
    with pretended_torch() as torch:
        buffer = io.BytesIO()
        pickler = _Pickler(buffer, torch, old)
        pickler.dump(content)
    storages = pickler.storages.values()
    if old:
        head = [0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True}]
        with open(path, "wb") as file:
            for value in head:
                pickle.dump(value, file, protocol=2)
            file.write(buffer.getvalue())
            pickle.dump([key for key, _ in storages], file, protocol=2)
            for _, data in storages:
                file.write(struct.pack("<q", data.size) + data.tobytes())
        return
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data.pkl", buffer.getvalue())
        archive.writestr("model/byteorder", "little")
        for key, data in storages:
            archive.writestr(f"model/data/{key}", data.tobytes())
        archive.writestr("model/version", "3\n")
