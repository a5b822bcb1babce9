"""Adapters of linear maps, as arrays: merged into the kernels that they adapt."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clac_jax.config.adapters import is_adapter


def merged(arrays: Mapping[str, np.ndarray], scale: float) -> dict[str, np.ndarray]:
    """The arrays of the plain model with the same function: W + scale * A B for each kernel.

    It is computed in float64, and rounded once.

    Args:
        arrays: slash path -> array of a model with adapters.
        scale: alpha / rank.

    Raises:
        KeyError: an adapter lacks its second matrix or its kernel.
    """
    result = {path: array for path, array in arrays.items() if not is_adapter(path)}
    for path, a in arrays.items():
        if is_adapter(path) and path.endswith("/lora_a"):
            module = path.removesuffix("/lora_a")
            kernel, b = result[f"{module}/kernel"], arrays[f"{module}/lora_b"]
            added = scale * (a.astype(np.float64) @ b.astype(np.float64))
            result[f"{module}/kernel"] = (kernel + added).astype(kernel.dtype)
    return result
