"""Batches built ahead of time in Grain's threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import grain
import numpy as np

T = TypeVar("T")


def prefetched(
    items: Sequence[Any] | np.ndarray,
    build: Callable[[Any], T],
    num_threads: int = 2,
    prefetch: int = 8,
) -> Iterator[T]:
    """`build` applied to each item, in order; the threads start now.

    Args:
        items: what each batch is built from; for an array, its rows.
        build: called in the threads; its errors are raised where the batch is consumed.
        num_threads: affects only speed; 0 builds each batch when it is consumed.
        prefetch: number of batches kept ready.
    """
    if not len(items):
        return iter(())
    data_set = grain.MapDataset.range(len(items)).map(lambda number: build(items[number]))
    batches = iter(data_set.to_iter_dataset(grain.ReadOptions(num_threads, prefetch)))
    batches.start_prefetch()
    return batches


def after_first(
    items: Sequence[Any] | np.ndarray,
    build: Callable[[Any], T],
    num_threads: int = 2,
    prefetch: int = 8,
) -> Iterator[T]:
    """`prefetched`, with threads that start only with the request for the second item.

    While a program is compiled for the first item, other threads that run Python would slow down
    its tracing several times. The first execution then hides their work.
    """
    if len(items):
        yield build(items[0])
        yield from prefetched(items[1:], build, num_threads, prefetch)
