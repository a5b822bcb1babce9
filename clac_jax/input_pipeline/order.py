"""Which examples go into which batch: a pure function of (seed, epoch, batch size)."""

from __future__ import annotations

import numpy as np

from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.share import ONE_PROCESS, Share

ORDER_STREAM = 0
"""Last part of the seed of the order; the other streams of a run's seed are in `views`."""


def epoch_order(
    seed: int, epoch: int, num_examples: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """(num_examples,) int64: the order of the examples in an epoch.

    Args:
        seed: the run's seed.
        epoch: epoch number, from 0.
        num_examples: number of examples in the split.
        groups: (num_examples,) integers; examples with the same number are consecutive, starting
            where the first of them would have been. None shuffles all examples freely.
    """
    shuffled = np.random.default_rng((seed, epoch, ORDER_STREAM)).permutation(num_examples)
    if groups is None:
        return shuffled
    # Large groups therefore tend to come first, which did no harm: docs/performance-notes.md.
    _, first, group = np.unique(groups[shuffled], return_index=True, return_inverse=True)
    return shuffled[np.argsort(first[group], kind="stable")]


def steps_in_epoch(num_examples: int, examples_per_step: int, start: int = 0) -> int:
    """Optimizer updates from example `start` to the end of an epoch; the remainder is dropped.

    Raises:
        ConfigError: the split is too small for even one step.
    """
    if examples_per_step > num_examples:
        raise ConfigError(
            f"An optimizer step takes {examples_per_step} examples (batch_size x accumulate_steps) "
            f"but the training split has only {num_examples}. Use a smaller batch_size."
        )
    return (num_examples - start) // examples_per_step


def train_rows(
    order: np.ndarray,
    start: int,
    batch_size: int,
    accumulate_steps: int = 1,
    share: Share = ONE_PROCESS,
) -> np.ndarray:
    """This process's examples for the rest of an epoch.

    Args:
        order: (N,) example indices in the epoch's order.
        start: number of examples of the epoch already done.
        batch_size: examples contrasted with each other, over all processes.
        accumulate_steps: batches of that size per optimizer update.
        share: the share of this process.

    Returns:
        (updates, accumulate_steps, batch_size / processes) example indices.

    Raises:
        ConfigError: the split is too small for even one step.
    """
    examples_per_step = batch_size * accumulate_steps
    num_steps = steps_in_epoch(len(order), examples_per_step, start)
    rows = order[start : start + num_steps * examples_per_step]
    rows = rows.reshape(num_steps, accumulate_steps, batch_size)
    size = batch_size // share.num_processes
    return rows[..., share.process_index * size : (share.process_index + 1) * size]


def eval_rows(num_examples: int, batch_size: int, share: Share = ONE_PROCESS) -> list[range]:
    """This process's examples in each batch of a split, in the split's own order.

    The last batch may hold fewer examples than the others, or none for this process.
    """
    size = batch_size // share.num_processes
    offset = share.process_index * size
    firsts = range(offset, offset + -(-num_examples // batch_size) * batch_size, batch_size)
    return [range(first, min(first + size, num_examples)) for first in firsts]
