"""Whether a run has ended, and why."""

from __future__ import annotations

import ml_collections

from clac_jax.errors import counted
from clac_jax.training.progress import RunProgress


def has_ended(config: ml_collections.ConfigDict, progress: RunProgress) -> bool:
    """Whether nothing is left to train: all epochs are done, or early stopping ends the run."""
    return progress.epoch >= config.max_epochs or stopped_early(config, progress)


def stopped_early(config: ml_collections.ConfigDict, progress: RunProgress) -> bool:
    """Whether too many consecutive validations did not improve the monitored value."""
    patience = config.early_stopping_patience
    return bool(patience) and progress.validations_since_best >= patience


def why_ended(config: ml_collections.ConfigDict, progress: RunProgress) -> str:
    """The reason in words, and which setting to change to train further."""
    if progress.epoch >= config.max_epochs:
        epochs = f"all {config.max_epochs} epochs are" if config.max_epochs != 1 else "its epoch is"
        return f"{epochs} trained, step {progress.step:,}; raise max_epochs to train further"
    best = "none"
    if progress.best_value is not None and progress.best_step is not None:
        best = f"{progress.best_value:.4g} at step {progress.best_step:,}"
    count = progress.validations_since_best
    return (
        f"stopped early after {progress.epoch} of {counted(config.max_epochs, 'epoch')}, step "
        f"{progress.step:,}: {counted(count, 'validation')} without a better "
        f"{config.checkpoint.monitor} (best {best}); raise early_stopping_patience, now "
        f"{config.early_stopping_patience}, to train further"
    )
