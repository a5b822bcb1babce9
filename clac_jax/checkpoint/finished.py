"""Marker of a finished run whose last checkpoint was removed (`checkpoint.save_last`).

Without it the newest remaining checkpoint, the best one, would look like one to resume from. If the
marker is lost, the steps after that checkpoint are trained again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.files.atomic import write_atomically
from clac_jax.training.progress import RunProgress

FINISHED_FILE = "finished.json"


def mark_finished(workdir: Path, progress: RunProgress, newest: CheckpointInfo) -> None:
    """Records where a run ended and its newest other checkpoint, before the last one is removed.

    Raises:
        WorkdirError: the file cannot be written.
    """
    content = {"progress": progress.to_json(), "newest": _identity(newest)}
    write_atomically(workdir / FINISHED_FILE, json.dumps(content))


def read_finished(workdir: Path, own: Mapping[int, CheckpointInfo]) -> RunProgress | None:
    """The end of the run that left these checkpoints; None if it is unknown or has not ended.

    An unreadable or outdated marker is ignored: training has continued since, or the checkpoints
    were replaced.
    """
    try:
        content = json.loads((workdir / FINISHED_FILE).read_text(encoding="utf-8"))
        values = content["progress"]
        if not all(value is None or isinstance(value, int | float) for value in values.values()):
            return None
        progress = RunProgress.from_json(values)
        is_newest = bool(own) and content["newest"] == _identity(own[max(own)])
        return progress if is_newest and progress.step > max(own) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _identity(info: CheckpointInfo) -> list[float]:
    return [info.step, info.saved_at]
