"""Preparing items in background threads."""

import threading
import time

import pytest

from clac_jax.input_pipeline.prefetch import after_first, prefetched


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_number_of_threads_changes_nothing(num_threads):
    def build(item):
        time.sleep(0.002 * (item % 3))  # so that threads finish in a different order
        return item * item

    items = range(5, 25)
    assert list(prefetched(items, build, num_threads, prefetch=4)) == [k * k for k in items]


def test_nothing_is_built_from_nothing():
    assert list(prefetched([], lambda item: 1 / 0)) == []


def test_an_error_in_a_thread_is_raised_where_the_batch_is_taken():
    def build(item):
        if item == 7:
            raise ValueError("item 7")
        return item

    batches = prefetched(range(20), build, num_threads=2, prefetch=2)
    with pytest.raises(ValueError, match="item 7"):
        list(batches)


@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_threads_start_with_the_second_item(count):
    threads = {}

    def build(item):
        threads[item] = threading.current_thread()
        return item * item

    items = after_first(range(count), build, num_threads=2, prefetch=8)
    if count:
        assert next(items) == 0
        time.sleep(0.05)
        assert threads == {0: threading.main_thread()}
    assert list(items) == [k * k for k in range(1, count)]
    assert len(threads) == count
