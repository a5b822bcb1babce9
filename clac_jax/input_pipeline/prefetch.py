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
    """`build` of each item, in order.

    Args:
        items: what each batch is built from; of an array, what each row of it holds.
        build: called in the threads; its errors are raised where the batch is taken.
        num_threads: their number changes nothing but the speed; 0 builds where the batch is taken.
        prefetch: batches held ready.
    """
    if not len(items):
        return iter(())
    data_set = grain.MapDataset.range(len(items)).map(lambda number: build(items[number]))
    return iter(data_set.to_iter_dataset(grain.ReadOptions(num_threads, prefetch)))
