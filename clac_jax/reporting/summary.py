"""The summary at the start: what is run, on which devices, and from where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import clac_jax
from clac_jax.checkpoint.resume import Start
from clac_jax.errors import counted
from clac_jax.training.run_end import has_ended, stops_for_now, why_ended
from clac_jax.training.schedules import Timeline


def describe_program() -> list[str]:
    """Lines on versions and devices."""
    devices, count = jax.devices(), jax.process_count()
    return [
        f"clac_jax {clac_jax.__version__}, jax {jax.__version__}",
        f"devices   {len(devices)} x {devices[0].device_kind}, {count} process"
        + ("es" if count > 1 else ""),
    ]


def describe_data(
    config: ml_collections.ConfigDict, split_sizes: Mapping[str, int], num_unlabelled: int
) -> list[str]:
    """Lines on the data set, examples per split, and how many were left out for lack of a label."""
    line = f"data      {config.dataset.name}: "
    line += ", ".join(f"{size:,} {name}" for name, size in split_sizes.items())
    if num_unlabelled:
        line += f"; {num_unlabelled:,} without {config.property.name} left out"
    return [line]


def describe_parameters(params: Mapping[str, Any], trainable: Mapping[str, Any]) -> list[str]:
    """Lines on the number of parameters, in total and by module.

    Args:
        params: tree of arrays or their shapes.
        trainable: tree of booleans with the same structure.
    """

    def count(tree: Any, mask: Any | None = None) -> int:
        leaves = jax.tree.leaves(tree)
        kept = jax.tree.leaves(mask) if mask is not None else [True] * len(leaves)
        return sum(int(leaf.size) for leaf, keep in zip(leaves, kept, strict=True) if keep)

    total, trained = count(params), count(params, trainable)
    lines = [f"model     {total:,} parameters, {trained:,} trained"]
    width = max(len(name) for name in params)
    for name in sorted(params):
        frozen = count(params[name]) - count(params[name], trainable[name])
        note = f" ({frozen:,} frozen)" if frozen else ""
        lines.append(f"            {name:<{width}}  {count(params[name]):>12,}{note}")
    return lines


def describe_steps(
    config: ml_collections.ConfigDict, timeline: Timeline, shapes: str
) -> Sequence[str]:
    """Lines on steps and batches; `shapes` is the input pipeline's description of batch shapes."""
    chunks, accumulated = config.gradient_cache_chunks, config.accumulate_steps
    per_device = config.batch_size // jax.device_count()
    return [
        f"steps     {timeline.steps_per_epoch:,} per epoch x "
        f"{counted(config.max_epochs, 'epoch')} = "
        f"{timeline.total_steps:,}; batch {config.batch_size} ({per_device} per device"
        + (f" in {chunks} chunks" if chunks > 1 else "")
        + ")"
        + (f" x {accumulated} accumulated" if accumulated > 1 else ""),
        f"shapes    {shapes}",
    ]


def describe_start(
    config: ml_collections.ConfigDict, start: Start, rate: float, scale: float
) -> list[str]:
    """Lines on where the run starts, what changed, and the learning rate of the next update.

    Args:
        config: the run's config.
        start: where it starts.
        rate: the learning rate of the schedule for the next update.
        scale: its factor after plateaus and healing.
    """
    lines = [f"start     {start.origin}", *start.notes]
    step = start.progress.step
    if has_ended(config, start.progress):
        lines.append(f"          {why_ended(config, start.progress)}")
        if not start.is_own:
            lines.append("          or leave progress out of restore.parts to begin at epoch 0")
    elif stops_for_now(config, start.progress):
        lines.append(f"          {why_ended(config, start.progress)}")
    elif step:
        line = f"          next: step {step + 1:,}, learning rate {rate * scale:.3g}"
        of_plateaus = np.float32(start.progress.learning_rate_scale)
        by = {"the plateaus": of_plateaus != 1, "healing": scale != of_plateaus}
        if any(by.values()):
            names = " and ".join(name for name, applies in by.items() if applies)
            line += f" ({scale:.3g} of the schedule's, kept from {names} so far)"
        lines.append(line)
    return lines
