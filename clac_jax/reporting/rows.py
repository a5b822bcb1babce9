"""The rows of metrics.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clac_jax.training.progress import RunProgress

Row = dict[str, Any]


def train_row(progress: RunProgress, metrics: Mapping[str, float], rate: float, wait: float) -> Row:
    """The row of one optimizer update.

    Args:
        progress: position after the update.
        metrics: metrics of the step.
        rate: examples per second.
        wait: fraction of the time spent waiting for data, from 0 to 1.
    """
    return {
        "split": "train",
        "step": progress.step,
        "epoch": progress.epoch,
        "examples_seen": progress.examples_seen,
        **metrics,
        "examples_per_second": rate,
        "data_wait_fraction": wait,
    }


def validation_row(measures: Mapping[str, Any], progress: RunProgress) -> Row:
    """The row of a validation at the end of epoch `progress.epoch - 1`."""
    return {
        "split": "val",
        "step": progress.step,
        "epoch": progress.epoch - 1,
        "examples_seen": progress.examples_seen,
        **measures,
    }


def test_row(measures: Mapping[str, Any], progress: RunProgress, checkpoint_step: int) -> Row:
    """The row of the test at the end of the run, done with the parameters of `checkpoint_step`."""
    return {
        "split": "test",
        "step": progress.step,
        "epoch": progress.epoch - 1,
        "examples_seen": progress.examples_seen,
        "checkpoint_step": checkpoint_step,
        **measures,
    }


def numbers(row: Row) -> dict[str, float]:
    """The metrics of a row, which a checkpoint keeps and `checkpoint.monitor` can name."""
    return {name: value for name, value in row.items() if isinstance(value, float)}
