"""Digests of arrays on the devices, equal to those of `clac_jax.digests.host`; to be compiled.

Only a few integers leave the devices. Each device digests its own copy of a replicated array, so a
copy that differs from the others is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.digests.digest import NUM_WORDS, TOTAL, odd_numbers, part_of, salt_of

# A state has hundreds of arrays with fewer elements, which are digested together: a kernel for each
# would take longer to compile and to start than to run.
SMALL = 1 << 12


@dataclass(frozen=True)
class Division:
    """The division of arrays among the devices of a mapped axis, on which a digest is computed.

    Attributes:
        axis_name: the mapped axis.
        num_devices: its size.
        axes: slash path -> the axis of the array that is divided into one piece per device; all
            other arrays are replicated.
    """

    axis_name: str = ""
    num_devices: int = 1
    axes: Mapping[str, int] = field(default_factory=dict)


REPLICATED = Division()


def state_digests(state: Any, division: Division = REPLICATED) -> dict[str, jax.Array]:
    """(2,) uint32 for each part of a state, and for all of it.

    Args:
        state: a tree of arrays whose first level are the parts, such as a `TrainState`; inside a
            map over devices, that of this device.
        division: which arrays of the state are in pieces on the devices.

    Returns:
        "params", "batch_stats", "opt_state", "counters" (the arrays at the top level) and "total".
    """
    parts: dict[str, dict[str, jax.Array]] = {}
    for path, array in by_path(state).items():
        parts.setdefault(part_of(path), {})[path] = array
    digests = {part: tree_digest(arrays, division) for part, arrays in parts.items()}
    total = sum(digests.values(), jnp.zeros(NUM_WORDS, jnp.uint32))
    return {**digests, TOTAL: total}


def array_digests(
    arrays: Mapping[str, jax.Array], division: Division = REPLICATED
) -> dict[str, jax.Array]:
    """(2,) uint32 for each array by slash path; arguments as for `state_digests`."""
    return {path: tree_digest({path: array}, division) for path, array in arrays.items()}


def tree_digest(arrays: Mapping[str, jax.Array], division: Division = REPLICATED) -> jax.Array:
    """(2,) uint32, the sum of the digests of arrays by slash path; see `state_digests`."""
    here = {path: array for path, array in arrays.items() if path not in division.axes}
    digest = _sum_of(here, division)
    if divided := {path: array for path, array in arrays.items() if path in division.axes}:
        digest += jax.lax.psum(_sum_of(divided, division), division.axis_name)
    return digest + sum(
        np.array(salt_of(path, _global_shape(path, array, division), array.dtype).add, np.uint32)
        for path, array in arrays.items()
    )


def by_path(tree: Any) -> dict[str, Any]:
    """Slash path -> leaf of a tree."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _sum_of(arrays: Mapping[str, jax.Array], division: Division) -> jax.Array:
    """(2,) uint32, the sum of all words times their factors, over what this device has.

    Each large array is first reduced along its last axis; the sums of its rows are then treated
    like small arrays.
    """
    terms: list[tuple[jax.Array, jax.Array]] = []
    factors: list[tuple[Any, Any]] = []
    for path, array in arrays.items():
        words = _words_of(array)
        pair = words, _swapped(words)
        numbers = _numbers(path, array, division)
        if words.size >= SMALL and words.ndim:
            last = (numbers[0].pop(), numbers[1].pop())
            pair = _sum_products(pair, last, words.ndim - 1)
        salt = salt_of(path, _global_shape(path, array, division), array.dtype)
        terms.append((pair[0].reshape(-1), pair[1].reshape(-1)))
        factors.append((_outer(numbers[0], salt.multiply[0]), _outer(numbers[1], salt.multiply[1])))
    if not terms:
        return jnp.zeros(NUM_WORDS, jnp.uint32)
    joined = jnp.concatenate([pair[0] for pair in terms]), jnp.concatenate([p[1] for p in terms])
    return jnp.stack(_sum_products(joined, (_joined(factors, 0), _joined(factors, 1)), 0))


def _sum_products(
    words: tuple[jax.Array, jax.Array], numbers: tuple[Any, Any], axis: int
) -> tuple[jax.Array, jax.Array]:
    """The sum of words * numbers along an axis, for both words of a digest.

    One reduction with two results reads the array once; on a CPU, XLA vectorizes it, unlike a
    reduction with one result.
    """
    zero = np.uint32(0)
    first, second = jax.lax.reduce(
        (words[0] * numbers[0], words[1] * numbers[1]),
        (zero, zero),
        lambda a, b: (a[0] + b[0], a[1] + b[1]),
        (axis,),
    )
    return first, second


def _numbers(path: str, array: jax.Array, division: Division) -> tuple[list[Any], list[Any]]:
    """The odd numbers along each axis of what this device has of an array's words."""
    shape = _words_shape(array)
    result: tuple[list[Any], list[Any]] = [], []
    for word, numbers in enumerate(result):
        for axis, size in enumerate(shape):
            from_last = len(shape) - 1 - axis
            if division.axes.get(path) == axis:
                table = odd_numbers(word, from_last, size * division.num_devices)
                first = jax.lax.axis_index(division.axis_name) * size
                numbers.append(jax.lax.dynamic_slice_in_dim(jnp.asarray(table), first, size))
            else:
                numbers.append(odd_numbers(word, from_last, size))
    return result


def _outer(numbers: list[Any], factor: int) -> Any:
    """(n,) uint32, factor * the product of the numbers of each position, in C order."""
    product: Any = np.full(1, factor, np.uint32)
    for row in numbers:
        product = (product[:, None] * row).reshape(-1)
    return product


def _joined(factors: list[tuple[Any, Any]], word: int) -> Any:
    """The factors of all arrays; constants wherever no array is divided."""
    rows = [pair[word] for pair in factors]
    if all(isinstance(row, np.ndarray) for row in rows):
        return np.concatenate(rows)
    return jnp.concatenate(rows)


def _global_shape(path: str, array: jax.Array, division: Division) -> tuple[int, ...]:
    shape = list(array.shape)
    if path in division.axes:
        shape[division.axes[path]] *= division.num_devices
    return tuple(shape)


def _words_shape(array: jax.Array) -> tuple[int, ...]:
    size = array.dtype.itemsize
    return array.shape if size <= 4 else (*array.shape, size // 4)


def _words_of(array: jax.Array) -> jax.Array:
    """The bits of an array as uint32 words; elements of 8 bytes have a last axis of 2 words."""
    if array.dtype == jnp.bool_:
        return array.astype(jnp.uint32)
    size = array.dtype.itemsize
    if size < 4:
        return jax.lax.bitcast_convert_type(array, f"uint{8 * size}").astype(jnp.uint32)
    return jax.lax.bitcast_convert_type(array, jnp.uint32)


def _swapped(words: jax.Array) -> jax.Array:
    """The words with their halves swapped."""
    return (words << np.uint32(16)) | (words >> np.uint32(16))
