"""PyTorch tensors, by state-dict name, in Flax's names and layout."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import ml_dtypes
import numpy as np

Tensors = Mapping[str, np.ndarray]
_FLOATS = (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)


class TensorReader:
    """Takes tensors by name, checks shapes, and converts linear maps and norms to Flax's layout.

    A missing tensor raises KeyError, one with the wrong shape or a number that is not finite
    ValueError; both name it.

    Attributes:
        prefix: prefix of every name.
    """

    def __init__(self, tensors: Tensors, anchor: str = "", prefix: str = ""):
        """Uses `prefix`, or, with `anchor`, whatever precedes it in the name that ends with it."""
        self._tensors = tensors
        self.prefix = prefix
        if anchor:
            name = next((name for name in tensors if name.endswith(anchor)), anchor)
            self.prefix = name[: -len(anchor)]

    def __contains__(self, name: str) -> bool:
        """Whether there is a tensor with that name, with or without the prefix."""
        return name in self._tensors or self.prefix + name in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return np.shape(self._find(name))

    def take(self, name: str, *shape: int) -> np.ndarray:
        """A tensor of that shape, as float32, or float64 if it is stored as float64.

        The shape is compared first, so that a tensor that only repeats a few numbers by striding is
        not expanded in memory for a model that does not want it.
        """
        tensor = np.asarray(self._find(name))
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tensor.shape} instead of {shape}")
        if tensor.dtype not in _FLOATS:
            raise ValueError(f"{name} has numbers of the type {tensor.dtype}, not floats")
        with np.errstate(over="ignore"):
            single = tensor.astype(np.float32)
        if not np.isfinite(single).all():
            raise ValueError(f"{name} has numbers that are NaN, infinite or too large for float32")
        return tensor if tensor.dtype == np.float64 else single

    def dense(
        self, name: str, fan_in: int, fan_out: int, use_bias: bool = True
    ) -> dict[str, np.ndarray]:
        """A linear map as Flax's Dense."""
        kernel = self.take(f"{name}.weight", fan_out, fan_in)
        params = {"kernel": np.ascontiguousarray(kernel.T)}
        return params | ({"bias": self.take(f"{name}.bias", fan_out)} if use_bias else {})

    def norm(self, name: str, size: int) -> dict[str, np.ndarray]:
        """The affine part of a normalization."""
        return {"scale": self.take(f"{name}.weight", size), "bias": self.take(f"{name}.bias", size)}

    def statistics(self, name: str, size: int) -> dict[str, np.ndarray]:
        """The running averages of a batch normalization, whose variances are at least 0."""
        mean, var = self.take(f"{name}.running_mean", size), self.take(f"{name}.running_var", size)
        if (var < 0).any():
            raise ValueError(f"{name}.running_var has negative variances")
        return {"mean": mean, "var": var}

    def _find(self, name: str) -> np.ndarray:
        name = name if name in self._tensors else self.prefix + name
        if name not in self._tensors:
            raise KeyError(f"no tensor {name}")
        return self._tensors[name]


class SeenTensors(dict[str, np.ndarray]):
    """Tensors that record which of them were read, under any of their names."""

    def __init__(self, tensors: Tensors):
        """Wraps these tensors, with none of them read yet."""
        super().__init__(tensors)
        self._read: set[int] = set()

    def __getitem__(self, name: str) -> np.ndarray:
        """The tensor, which is then marked as read."""
        tensor = super().__getitem__(name)
        self._read.add(id(tensor))
        return tensor

    def unread(self) -> list[str]:
        """The names of the tensors that have not been read."""
        return [name for name, tensor in self.items() if id(tensor) not in self._read]


def count_layers(names: Iterable[str], pattern: str) -> int:
    """The number of names that fully match a regular expression."""
    return sum(re.fullmatch(pattern, name) is not None for name in names)
