"""Placeholders for packages that training on stored batches imports but never uses.

A machine without network has JAX and the packages of `make gpu-wheels`. Reading data also requires
large packages such as RDKit and Arrow; here they are modules on which every attribute exists, and
which raise an error that names the missing package once a value is needed.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any, NoReturn

DATA_PACKAGES = (
    "array_record",
    "gemmi",
    "grain",
    "huggingface_hub",
    "matplotlib",
    "pyarrow",
    "rdkit",
    "safetensors",
    "sentencex",
    "spglib",
    "tensorboardX",
    "tensorflow_datasets",
    "tokenizers",
    "tqdm",
    "vesin",
)


class StandIn:
    """Any object of an absent package; attributes and calls return more, values an ImportError."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> StandIn:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return StandIn(f"{self._name}.{attribute}")

    def __call__(self, *args: Any, **options: Any) -> StandIn:
        """A stand-in for the result of the call."""
        return StandIn(f"{self._name}()")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (object,)

    def _raise(self, *args: Any) -> NoReturn:
        package = self._name.partition(".")[0]
        raise ImportError(f"{self._name} is needed, and {package} is not installed. Install it.")

    __array__ = __bool__ = __float__ = __index__ = __int__ = __iter__ = __len__ = _raise
    __getitem__ = __contains__ = _raise


class _Module(types.ModuleType):
    def __getattr__(self, attribute: str) -> StandIn:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return StandIn(f"{self.__name__}.{attribute}")


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, packages: Sequence[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in self._packages:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        del module


def stand_in_for_absent(packages: Sequence[str] = DATA_PACKAGES) -> list[str]:
    """Makes the packages that are not installed importable, and returns their names."""
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent:
        sys.meta_path.append(_Finder(absent))
    return absent
