"""Arrays and texts that one process sends to the others, between threads."""

import jax
import numpy as np
import pytest
from helpers.threads_as_processes import in_threads

from clac_jax.distributed import sending
from clac_jax.distributed.sending import any_text, each_from_first

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 0.0,
    np.array(-0.0, np.float32),
    np.array([[True], [False]]),
    np.arange(100, dtype=np.int32),
    np.arange(5).astype(jax.numpy.bfloat16),
]
SHAPES = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in ARRAYS]


def bits(arrays):
    return [(array.shape, array.dtype, array.tobytes()) for array in arrays]


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 1 << 20])
def test_arrays_arrive_with_every_bit_whatever_the_size_of_the_pieces(monkeypatch, piece_bytes):
    monkeypatch.setattr(sending, "PIECE_BYTES", piece_bytes)

    def make():
        return ARRAYS

    def receive(index):
        return bits(each_from_first(make if index == 0 else pytest.fail, SHAPES))

    assert in_threads(monkeypatch, 3, receive) == [bits(ARRAYS)] * 3


def test_alone_nothing_is_sent():
    assert bits(each_from_first(lambda: ARRAYS, SHAPES)) == bits(ARRAYS)
    assert any_text("alone") == "alone"


@pytest.mark.parametrize(
    "texts, expected",
    [
        (("", "", ""), ""),
        (("", "second: 5 µm", ""), "second: 5 µm"),
        (("first", "", "third"), "first"),
        (("", "", "x" * 5000), "x" * sending.TEXT_BYTES),
    ],
)
def test_all_learn_the_text_of_the_first_that_gives_one(monkeypatch, texts, expected):
    assert in_threads(monkeypatch, 3, lambda index: any_text(texts[index])) == [expected] * 3
