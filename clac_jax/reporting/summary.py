"""The start-up summary: what is about to run, on what, and from where."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

import clac_jax
from clac_jax.checkpoint.resume import Start
from clac_jax.training.run_end import has_ended, why_ended


def describe_run(
    config: ml_collections.ConfigDict,
    workdir: Path,
    split_sizes: dict[str, int],
    num_unlabelled: int,
    params: Any,
    trainable: Any,
    steps_per_epoch: int,
    padding: str,
    start: Start,
    total_steps: int,
    next_learning_rate: float,
) -> str:
    """The summary as text.

    Args:
        config: of the run.
        workdir: of the run.
        split_sizes: examples by split name.
        num_unlabelled: examples left out for want of a label.
        params: the parameters.
        trainable: a tree of booleans like the parameters.
        steps_per_epoch: optimizer updates an epoch.
        padding: what the input pipeline says about its batch shapes.
        start: from where.
        total_steps: optimizer updates at the end of the run, those done included.
        next_learning_rate: of the first update to come.
    """
    devices = jax.devices()
    per_device = config.batch_size // len(devices)
    chunks = config.gradient_cache_chunks
    lines = [
        f"clac_jax {clac_jax.__version__}, jax {jax.__version__}",
        f"devices   {len(devices)} x {devices[0].device_kind}, {jax.process_count()} process"
        + ("es" if jax.process_count() > 1 else ""),
        f"data      {config.dataset.name}: "
        + ", ".join(f"{size:,} {name}" for name, size in split_sizes.items())
        + (f"; {num_unlabelled:,} without {config.property.name} left out" * bool(num_unlabelled)),
        *_parameter_lines(params, trainable),
        f"steps     {steps_per_epoch:,} an epoch x {config.max_epochs} epochs = "
        f"{total_steps:,}; batch {config.batch_size} "
        f"({per_device} a device"
        + (f" in {chunks} chunks" if chunks > 1 else "")
        + ")"
        + (f" x {config.accumulate_steps} accumulated" if config.accumulate_steps > 1 else ""),
        f"shapes    {padding}",
        f"workdir   {workdir}",
        f"start     {start.origin}",
        *start.notes,
    ]
    step, scale = start.progress.step, start.progress.learning_rate_scale
    if has_ended(config, start.progress):
        lines.append(f"          {why_ended(config, start.progress)}")
        if not start.is_own:
            lines.append("          or leave progress out of restore.parts to begin at epoch 0")
    elif step:
        lowered = f" ({scale:.3g} of the schedule's, kept from the plateaus so far)"
        lines.append(
            f"          next: step {step + 1:,}, learning rate {next_learning_rate:.3g}"
            + lowered * (scale != 1.0)
        )
    return "\n".join(lines)


def _parameter_lines(params: Any, trainable: Any) -> list[str]:
    def count(tree: Any, mask: Any | None = None) -> int:
        leaves = jax.tree.leaves(tree)
        kept = jax.tree.leaves(mask) if mask is not None else [True] * len(leaves)
        return sum(int(np.size(leaf)) for leaf, keep in zip(leaves, kept, strict=True) if keep)

    total, trained = count(params), count(params, trainable)
    lines = [f"model     {total:,} parameters, {trained:,} trained"]
    width = max(len(name) for name in params)
    for name in sorted(params):
        frozen = count(params[name]) - count(params[name], trainable[name])
        note = f" ({frozen:,} frozen)" if frozen else ""
        lines.append(f"            {name:<{width}}  {count(params[name]):>12,}{note}")
    return lines
