"""Digests by NumPy: any flipped bit, any two elements or arrays that change places are seen."""

import ml_dtypes
import numpy as np
import pytest

from clac_jax.digests.digest import Digest
from clac_jax.digests.host import array_digest, array_digests, state_digests, words_of

DTYPES = [
    "float32", "float64", "float16", ml_dtypes.bfloat16, "int8", "uint8", "int16", "int32",
    "uint32", "int64", "uint64", "complex64", "complex128",
]  # fmt: skip
SHAPES = [(), (2, 3), (2, 1, 2)]


def random_bits(shape, dtype, seed=0):
    """An array of arbitrary bits: NaN payloads, subnormal numbers and -0.0 included."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.random.default_rng(seed).bytes(count), shape, dtype


def array_of(content, shape, dtype):
    return np.frombuffer(content, dtype).reshape(shape)


def differ_in_both_words(left: Digest, right: Digest):
    return left.first != right.first and left.second != right.second


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_counts_in_both_words(dtype):
    for shape in SHAPES:
        content, _, kind = random_bits(shape, dtype)
        before = array_digest("params/a", array_of(content, shape, kind))
        for bit in range(8 * len(content)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            after = array_digest("params/a", array_of(bytes(flipped), shape, kind))
            assert differ_in_both_words(before, after), (shape, bit)


def test_booleans_minus_zero_and_the_payload_of_nan_count():
    def digest(values):
        return array_digest("a", np.array(values))

    assert differ_in_both_words(digest([True, False]), digest([True, True]))
    assert differ_in_both_words(digest([0.0]), digest([-0.0]))
    nans = np.array([0x7FC00000, 0x7FC00001], np.uint32).view(np.float32)
    assert differ_in_both_words(array_digest("a", nans[:1]), array_digest("a", nans[1:]))


def test_two_elements_that_change_places_are_seen():
    """Also floats whose difference ends in many zero bits, at any distance."""
    rng = np.random.default_rng(1)
    array = rng.choice(np.array([0.0, 1.0, -1.0, 0.5, 2.0], np.float32), (256, 300))
    before = array_digest("params/a", array)
    missed = 0
    for _ in range(500):
        first, second = rng.integers(0, array.size, 2)
        flat = array.copy().reshape(-1)
        flat[first], flat[second] = flat[second], flat[first]
        if flat[first] != flat[second]:
            missed += array_digest("params/a", flat.reshape(array.shape)) == before
    assert missed == 0


def test_rows_columns_and_a_transposition_are_seen():
    array = np.random.default_rng(2).normal(size=(64, 64)).astype(np.float32)
    variants = [array, array[::-1], array[:, ::-1], array.T, np.roll(array, 1, axis=0)]
    assert len({array_digest("a", each) for each in variants}) == len(variants)


def test_equal_bits_at_another_path_or_in_another_shape_or_dtype_differ():
    zeros = np.zeros(6, np.float32)
    variants = {
        array_digest("a", zeros),
        array_digest("b", zeros),
        array_digest("a", zeros.reshape(2, 3)),
        array_digest("a", zeros.view(np.int32)),
        array_digest("a", np.zeros(0, np.float32)),
        array_digest("a", np.zeros((0, 3), np.float32)),
        array_digest("a", np.float32(0)),
    }
    assert len(variants) == 7


def test_two_arrays_of_a_state_that_change_places_are_seen():
    left, right = np.random.default_rng(3).normal(size=(2, 8, 8)).astype(np.float32)
    before = state_digests({"params/a": left, "params/b": right, "step": np.int32(1)})
    after = state_digests({"params/a": right, "params/b": left, "step": np.int32(1)})
    assert before["params"] != after["params"] and before["total"] != after["total"]
    assert before["counters"] == after["counters"]


def test_the_order_in_memory_does_not_matter():
    array = np.random.default_rng(4).normal(size=(6, 10)).astype(np.float32)
    fortran = np.asfortranarray(array)
    wide = np.zeros((12, 10), np.float32)
    wide[::2] = array
    big_endian = array.astype(">f4")
    assert {array_digest("a", each) for each in (array, fortran, wide[::2])} == {
        array_digest("a", array)
    }
    assert words_of(big_endian).tolist() == words_of(array).tolist()


def test_the_total_is_the_sum_over_the_arrays():
    arrays = {f"{part}/x": np.arange(3.0) for part in ("params", "opt_state")} | {
        "step": np.int32(3)
    }
    digests = state_digests(arrays)
    assert list(digests) == ["params", "opt_state", "counters", "total"]
    assert digests["total"] == Digest.sum(array_digests(arrays).values())
