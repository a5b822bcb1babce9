"""The rows of metrics.jsonl, and the lines that tell a person the same."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clac_jax.evaluate import Evaluation
from clac_jax.progress import RunProgress

Row = dict[str, Any]

# Every train row has all terms; one whose contrast is switched off is 0.
NO_LOSS_TERMS = {"visual_loss": 0.0, "textual_loss": 0.0}


def train_row(progress: RunProgress, metrics: Mapping[str, float], rate: float, wait: float) -> Row:
    """The row of one optimizer update.

    Args:
        progress: after the update.
        metrics: of the step.
        rate: examples per second.
        wait: share of the time spent waiting for data.
    """
    return {
        "split": "train",
        "step": progress.step,
        "epoch": progress.epoch,
        "examples_seen": progress.examples_seen,
        **NO_LOSS_TERMS,
        **metrics,
        "examples_per_second": rate,
        "data_wait_fraction": wait,
    }


def validation_row(validation: Evaluation, progress: RunProgress) -> Row:
    """The row of a validation at the end of epoch `progress.epoch - 1`."""
    metrics = dict(validation.metrics)
    return {
        "split": "val",
        "step": progress.step,
        "epoch": progress.epoch - 1,
        "examples_seen": progress.examples_seen,
        "val_loss": metrics.pop("loss"),
        "val_acc_top1": metrics.pop("acc_top1"),
        "val_acc_top3": metrics.pop("acc_top3"),
        **metrics,
        "pool_size": len(validation.similarity),
    }


def test_row(
    test: Evaluation, no_formula: Evaluation, progress: RunProgress, checkpoint_step: int
) -> Row:
    """The row of the test at the end of the run, with the parameters of `checkpoint_step`."""
    metrics = dict(test.metrics)
    extra = {k: v for k, v in no_formula.metrics.items() if k.endswith("_no_formula")}
    return {
        "split": "test",
        "step": progress.step,
        "epoch": progress.epoch - 1,
        "examples_seen": progress.examples_seen,
        "checkpoint_step": checkpoint_step,
        "test_loss": metrics.pop("loss"),
        "val_acc_top1": metrics.pop("acc_top1"),
        "val_acc_top3": metrics.pop("acc_top3"),
        **metrics,
        **extra,
        "pool_size": len(test.similarity),
    }


def numbers(row: Row) -> dict[str, float]:
    """The metrics of a row: what a checkpoint keeps and `checkpoint.monitor` may name."""
    return {name: value for name, value in row.items() if isinstance(value, float)}


def describe_validation(row: Row) -> str:
    """One line on a validation row."""
    return (
        f"epoch {row['epoch']} done  val_loss {row['val_loss']:.3f}  in batch top-1 "
        f"{row['val_acc_top1']:.1%}  among {row['pool_size']} crystals: text->crystal top-1 "
        f"{row['text_to_crystal_top1']:.1%}, top-10 {row['text_to_crystal_top10']:.1%}"
    )


def describe_test(row: Row, report: Path) -> str:
    """The table of retrieval accuracies at the end of a run."""
    lines = [
        f"test      {row['pool_size']} unseen crystals, "
        f"checkpoint of step {row['checkpoint_step']}",
        f"            {'':<28}{'top-1':>8}{'top-3':>8}{'top-10':>8}",
    ]
    for direction in ("text_to_crystal", "crystal_to_text"):
        for suffix, words in (("", ""), ("_no_formula", ", no formula")):
            name = direction.replace("_to_", " -> ") + words
            accuracies = (row[f"{direction}_top{k}{suffix}"] for k in (1, 3, 10))
            lines.append(f"            {name:<28}" + "".join(f"{a:>8.1%}" for a in accuracies))
    lines.append(f"report    {report}")
    return "\n".join(lines)
