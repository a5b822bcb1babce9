"""Vectors from earlier calls, in an array of any library or in lists."""

from __future__ import annotations

from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np

from clac_jax.inference.errors import InputError

_UNREADABLE = (TypeError, ValueError, RuntimeError)  # the last: a tensor of PyTorch with a gradient


def are_vectors(values: Any) -> TypeGuard[np.ndarray]:
    """Whether these are vectors and not crystals: an array of numbers, or a list of such rows."""
    if isinstance(values, list | tuple):
        rows = [isinstance(row, list | tuple) or getattr(row, "ndim", 0) > 0 for row in values]
        return bool(rows) and all(rows) and _is_numeric(values[0])
    return hasattr(values, "__array__") and _is_numeric(values)


def vectors_of(values: Any, kind: str, dim: int) -> np.ndarray:
    """Vectors as an (n, dim) float32 array.

    Args:
        values: n x dim real numbers.
        kind: "crystal" or "text", for messages.
        dim: width of the vectors of the model.

    Raises:
        InputError: they are not such numbers.
    """
    try:
        array = np.asarray(values)
        # By its own type: conversion would take text for numbers, and drop imaginary parts.
        is_real = any(jnp.issubdtype(array.dtype, t) for t in (np.integer, np.floating))
    except _UNREADABLE:
        is_real = False
    if not is_real:
        raise InputError(
            f"The {kind} vectors are not real numbers. Give what embed_{kind}s has returned."
        )
    if array.ndim != 2 or array.shape[1] != dim:
        raise InputError(
            f"The {kind} vectors have the shape {array.shape}, and this model's are "
            f"(n, {dim}). Give what embed_{kind}s of this model has returned."
        )
    return array.astype(np.float32)


def _is_numeric(values: Any) -> bool:
    try:
        return bool(jnp.issubdtype(np.asarray(values).dtype, np.number))
    except _UNREADABLE:
        return False
