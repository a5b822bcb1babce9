"""Arrays and texts that one process sends to the others, between threads."""

import functools

import jax
import numpy as np
import pytest
from helpers.threads_as_processes import in_threads

from clac_jax.distributed import sending
from clac_jax.distributed.sending import any_text, each_from_first


@functools.cache
def arrays():
    return [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.array(-0.0, np.float32),
        np.array([[True], [False]]),
        np.arange(100, dtype=np.int32),
        np.arange(5).astype(jax.numpy.bfloat16),
    ]


def shapes():
    return [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in arrays()]


def bits(some):
    return [(array.shape, array.dtype, array.tobytes()) for array in some]


@pytest.mark.parametrize("piece_bytes", [1, 7, 64, 1 << 20])
def test_arrays_arrive_with_every_bit_whatever_the_size_of_the_pieces(monkeypatch, piece_bytes):
    monkeypatch.setattr(sending, "PIECE_BYTES", piece_bytes)

    def receive(index):
        return bits(each_from_first(arrays if index == 0 else pytest.fail, shapes()))

    assert in_threads(monkeypatch, 3, receive) == [bits(arrays())] * 3


def test_one_process_sends_nothing():
    assert bits(each_from_first(arrays, shapes())) == bits(arrays())
    assert any_text("text") == "text"


@pytest.mark.parametrize(
    "texts, expected",
    [
        (("", "", ""), ""),
        (("", "second: 5 µm", ""), "second: 5 µm"),
        (("first", "", "third"), "first"),
        (("", "", "x" * sending.TEXT_BYTES), "x" * sending.TEXT_BYTES),
        (("", "µ" * 5000 + "\0", ""), "µ" * 5000 + "\0"),
        (("", "", "name \udcff"), "name \udcff"),
    ],
)
def test_all_learn_the_text_of_the_first_that_gives_one(monkeypatch, texts, expected):
    assert in_threads(monkeypatch, 3, lambda index: any_text(texts[index])) == [expected] * 3
