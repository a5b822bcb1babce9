"""What is shown of a sweep, read from its storage and the folders of its trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clac_jax.reporting.events import EVENTS_FILE
from clac_jax.reporting.goodput import recorded_seconds
from clac_jax.sweeps.population import Plan
from clac_jax.sweeps.storage import TrialRecord
from clac_jax.sweeps.view import TrialView

LINEAGE = "lineage"
"""Name under which a trial of a population keeps its plan, in its `extra`."""


def trial_views(
    records: Sequence[TrialRecord], folders: Mapping[int, Path], workdir: Path
) -> list[TrialView]:
    """The trials of a sweep as they are shown.

    Args:
        records: the trials.
        folders: number -> folder of the trial.
        workdir: the folder of the sweep.
    """
    members = 1 + max((record.extra[LINEAGE]["member"] for record in records
                       if LINEAGE in record.extra), default=0)  # fmt: skip
    return [_view(record, folders[record.number], workdir, members) for record in records]


def _view(record: TrialRecord, folder: Path, workdir: Path, members: int) -> TrialView:
    seconds = recorded_seconds(folder / EVENTS_FILE)
    seconds.pop("down", None)
    lineage: dict[str, Any] = {}
    if LINEAGE in record.extra:
        plan = Plan.from_json(record.extra[LINEAGE])
        before = (plan.generation - 1) * members
        lineage = {
            "member": plan.member,
            "generation": plan.generation,
            "parent": None if plan.parent is None else before + plan.parent,
            "changed": plan.changed,
            "exploits": plan.exploits,
        }
    return TrialView(
        number=record.number,
        state=record.state.value,
        params=record.params,
        values=record.values,
        value=record.value,
        seconds=sum(seconds.values()) if seconds else None,
        workdir=str(folder.relative_to(workdir) if folder.is_relative_to(workdir) else folder),
        note=str(record.result.get("note", "")),
        **lineage,
    )
