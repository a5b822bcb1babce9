"""Preparing items in background threads."""

import time

import pytest

from clac_jax.input_pipeline.prefetch import prefetched


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
