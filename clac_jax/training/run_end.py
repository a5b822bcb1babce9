"""Whether a run has ended or stops for now, and why."""

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


def stops_for_now(
    config: ml_collections.ConfigDict, progress: RunProgress, validates_next: bool = False
) -> bool:
    """Whether `stop_at_epoch` or `stop_at_step` is reached, by a run that has not ended.

    Args:
        config: the run's config.
        progress: position of the run.
        validates_next: whether only the validation of the current epoch remains to be done; a run
            that stops at that step does it first.
    """
    epoch, step = config.stop_at_epoch, config.stop_at_step
    at_step = bool(step) and progress.step >= step and not validates_next
    reached = at_step or (bool(epoch) and progress.epoch >= epoch)
    return reached and not has_ended(config, progress)


def why_ended(config: ml_collections.ConfigDict, progress: RunProgress) -> str:
    """The reason in words, and which setting to change to train further."""
    if progress.epoch >= config.max_epochs:
        epochs = f"all {config.max_epochs} epochs are" if config.max_epochs != 1 else "its epoch is"
        return f"{epochs} trained, step {progress.step:,}; raise max_epochs to train further"
    epochs = f"{progress.epoch} of {counted(config.max_epochs, 'epoch')}, step {progress.step:,}"
    if stops_for_now(config, progress):
        by_epoch = config.stop_at_epoch and progress.epoch >= config.stop_at_epoch
        key = "stop_at_epoch" if by_epoch else "stop_at_step"
        return f"stopped for now after {epochs}, by {key}={config[key]}; raise it to train further"
    best = "none"
    if progress.best_value is not None and progress.best_step is not None:
        best = f"{progress.best_value:.4g} at step {progress.best_step:,}"
    count = progress.validations_since_best
    return (
        f"stopped early after {epochs}: {counted(count, 'validation')} without a better "
        f"{config.checkpoint.monitor} (best {best}); raise early_stopping_patience, now "
        f"{config.early_stopping_patience}, to train further"
    )
