"""Digests on a device: the words of NumPy, for any arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clac_jax.digests import device, host
from clac_jax.digests.digest import Digest
from clac_jax.digests.host import array_digest

DTYPES = ("float32", "bfloat16", "float16", "int32", "uint32", "int8", "uint8", "int16", "bool")


def words(value):
    return Digest.of_words(np.asarray(value))


def bits(rng, shape, dtype):
    """An array of arbitrary bits on the device."""
    dtype = jnp.dtype(dtype)
    if dtype.name == "bool":
        return jnp.asarray(rng.integers(0, 2, shape, dtype=np.uint8).astype(bool))
    content = rng.bytes(int(np.prod(shape)) * dtype.itemsize)
    return jnp.asarray(np.frombuffer(content, dtype).reshape(shape))


# Empty, single and many elements; those with more than `SMALL` are digested by themselves.
SHAPES = [(), (1,), (0,), (17,), (3, 0), (5, 7), (2, 3, 4), (2, 1, 2, 3), (70, 80), (2, 50, 60)]
ARRAYS = {
    f"params/{number}/{dtype}": (shape, dtype)
    for number, shape in enumerate(SHAPES)
    for dtype in DTYPES
    if len(shape) < 3 or dtype == "float32"
} | {"step": ((), "int32"), "key": ((2,), "uint32"), "opt_state/x": ((4100, 1), "bfloat16")}


@pytest.fixture(scope="module")
def compiled():
    """The digests of a state with all these arrays, by part and by array."""
    return jax.jit(
        lambda arrays: (device.state_digests(nested(arrays)), device.array_digests(arrays))
    )


def nested(arrays):
    """Slash paths -> nested dicts."""
    return traverse_util.unflatten_dict(arrays, sep="/")


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32 - 1))
def test_the_words_are_those_of_numpy(compiled, seed):
    rng = np.random.default_rng(seed)
    arrays = {path: bits(rng, *kind) for path, kind in ARRAYS.items()}
    parts, table = compiled(arrays)
    expected = {path: array_digest(path, np.asarray(array)) for path, array in arrays.items()}
    assert {path: words(each) for path, each in table.items()} == expected
    assert {part: words(each) for part, each in parts.items()} == host.by_part(expected)
    assert sorted(parts) == ["counters", "opt_state", "params", "total"]


def test_elements_of_eight_bytes_are_two_words_where_jax_has_them():
    with jax.enable_x64(True):
        array = jnp.asarray(np.random.default_rng(0).normal(size=(30, 200)))
        small = jnp.asarray(np.arange(7, dtype=np.int64) << 40)
        assert array.dtype == jnp.float64 and small.dtype == jnp.int64
        for path, each in {"params/a": array, "params/b": small}.items():
            found = device.array_digests({path: each})[path]
            assert words(found) == array_digest(path, np.asarray(each))


@pytest.mark.parametrize("bit", range(32))
def test_every_bit_of_a_large_array_counts_on_the_device(bit, digest_of_large):
    array = np.random.default_rng(5).normal(size=(70, 80)).astype(np.float32)
    before = digest_of_large(array)
    array.view(np.uint32)[bit, 2 * bit] ^= np.uint32(1 << bit)
    after = digest_of_large(array)
    assert before.first != after.first and before.second != after.second


@pytest.fixture(scope="module")
def digest_of_large():
    compiled = jax.jit(lambda array: device.tree_digest({"params/a": array}))
    return lambda array: words(compiled(jnp.asarray(array)))
