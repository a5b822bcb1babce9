"""Which examples are in which batch: a pure function of (seed, epoch, batch size)."""

from __future__ import annotations

import numpy as np

from clac_jax.errors import ConfigError
from clac_jax.input_pipeline.share import ONE_PROCESS, Share

ORDER_STREAM = 0
"""Last part of the seed of the order; `views` has the other streams of a run's seed."""


def epoch_order(
    seed: int, epoch: int, num_examples: int, groups: np.ndarray | None = None
) -> np.ndarray:
    """(num_examples,) int64: the order of the examples in an epoch.

    Args:
        seed: of the run.
        epoch: its number.
        num_examples: of the split.
        groups: (num_examples,) integers; examples of equal number follow each other, from where the
            first of them would have come. None shuffles the examples freely.
    """
    shuffled = np.random.default_rng((seed, epoch, ORDER_STREAM)).permutation(num_examples)
    if groups is None:
        return shuffled
    # Large groups tend to come first so, which did no harm: docs/performance.md.
    _, first, group = np.unique(groups[shuffled], return_index=True, return_inverse=True)
    return shuffled[np.argsort(first[group], kind="stable")]


def steps_in_epoch(num_examples: int, examples_per_step: int, start: int = 0) -> int:
    """Optimizer updates from example `start` of an epoch to its end; the remainder is left out.

    Raises:
        ConfigError: not even one step fits into the split.
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
    """This process's examples of the rest of an epoch.

    Args:
        order: (N,) the epoch's order of example indices.
        start: examples of the epoch that are done.
        batch_size: examples contrasted with each other, over all processes.
        accumulate_steps: such batches per optimizer update.
        share: of this process.

    Returns:
        (updates, accumulate_steps, batch_size / processes) indices of examples.

    Raises:
        ConfigError: not even one step fits into the split.
    """
    examples_per_step = batch_size * accumulate_steps
    num_steps = steps_in_epoch(len(order), examples_per_step, start)
    rows = order[start : start + num_steps * examples_per_step]
    rows = rows.reshape(num_steps, accumulate_steps, batch_size)
    size = batch_size // share.num_processes
    return rows[..., share.process_index * size : (share.process_index + 1) * size]


def eval_rows(num_examples: int, batch_size: int, share: Share = ONE_PROCESS) -> list[range]:
    """This process's examples of each batch of a split in its own order.

    The last batch may hold fewer examples than the others, or none for this process.
    """
    size = batch_size // share.num_processes
    offset = share.process_index * size
    firsts = range(offset, offset + -(-num_examples // batch_size) * batch_size, batch_size)
    return [range(first, min(first + size, num_examples)) for first in firsts]
