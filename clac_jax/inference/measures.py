"""The figures that a run has written about one of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clac_jax.checkpoint.fetched import fetch_run_files
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo
from clac_jax.errors import UserError, one_line
from clac_jax.files.json import parse_object, read_text
from clac_jax.inference.errors import PublishedError
from clac_jax.reporting.metrics_file import read_rows

_KS, _PLAIN = (1, 3, 10), "_no_formula"
_ERRORS = ("mae", "accuracy")
_COUNTERS = ("split", "step", "epoch", "examples_seen", "checkpoint_step")


@dataclass(frozen=True)
class Measures:
    """Figures of a model on one split.

    Attributes:
        split: "test" or "validation"; "" if nothing has been measured.
        values: name as in `metrics.jsonl` -> number.
        evaluation: content of the file that `clac-jax evaluate` wrote; None without one.
    """

    split: str
    values: dict[str, float]
    evaluation: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The content of eval.json for a model that `clac-jax evaluate` has not measured."""
        return {"split": self.split, "metrics": self.values}


def measures_of(info: CheckpointInfo) -> Measures:
    """The evaluation of a checkpoint; otherwise its test in its run, or its last validation.

    An evaluation on other data than those of the run, or without figures of its main task, does
    not count.

    Args:
        info: description of the checkpoint; its run's files are looked for where it lies.

    Raises:
        PublishedError: a file of the run cannot be read.
    """
    folder = Path(info.folder)
    if folder.parent.name != CHECKPOINTS:  # copied out of its run
        return Measures("validation" if info.metrics else "", dict(info.metrics or {}))
    run = folder.parent.parent
    fetch_run_files(run, f"eval/{info.step}")
    evaluation = run / "eval" / str(info.step) / "eval.json"
    try:
        text = read_text(evaluation) if evaluation.is_file() else None
        evaluated = {} if text is None else _evaluated(parse_object(text))
        rows = read_rows(run / "metrics.jsonl")
    except UserError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise PublishedError(
            f"{evaluation} cannot be read ({one_line(error)}). Evaluate the model again, or delete "
            "the file."
        ) from error
    if evaluated:
        return Measures("test", evaluated, text)
    for row in reversed(rows):
        if row["split"] == "test" and row.get("checkpoint_step") == info.step:
            return Measures("test", _numbers(row), text)
    return Measures("validation" if info.metrics else "", dict(info.metrics or {}), text)


def _evaluated(content: dict[str, Any]) -> dict[str, float]:
    """The figures in eval.json by their names in `metrics.jsonl`; {} if it has none that count."""
    data, tasks = content.get("data", {}), content.get("tasks", {})
    if data.get("split") != "test" or data.get("is_that_of_the_training") is False:
        return {}
    found: dict[str, float] = {}
    if retrieval := tasks.get("retrieval"):
        for name, measures in retrieval["by_example"].items():
            direction, suffix = name.removesuffix(_PLAIN), _PLAIN * name.endswith(_PLAIN)
            found |= {f"{direction}_top{k}{suffix}": measures[f"top{k}"]["value"] for k in _KS}
        found["pool_size"] = retrieval["pool_size"]
    if prediction := tasks.get("property"):
        measures = prediction["by_example"]["model"]
        found |= {f"test_{name}": measures[name]["value"] for name in _ERRORS if name in measures}
        found["pool_size"] = prediction["size"]
    return found


def _numbers(row: dict[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in row.items()
        if name not in _COUNTERS and isinstance(value, int | float)
    }
