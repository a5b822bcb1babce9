"""The mark of a run that has ended and whose last checkpoint is gone (`checkpoint.save_last`).

Without it the newest checkpoint that is left, the best one, would look like one to resume from. The
mark may be lost: then the steps after that checkpoint are trained once more.
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
    """Notes where a run ended and beside which checkpoint, before the last one is removed.

    Raises:
        WorkdirError: the file cannot be written.
    """
    content = {"progress": progress.to_json(), "newest": _identity(newest)}
    write_atomically(workdir / FINISHED_FILE, json.dumps(content))


def read_finished(workdir: Path, own: Mapping[int, CheckpointInfo]) -> RunProgress | None:
    """Where the run of these checkpoints has ended, if they are what it left; else None.

    A mark of another time, or one that cannot be read, means nothing: training has continued since,
    or the checkpoints were replaced.
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
