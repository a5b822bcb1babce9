"""The checkpoint of a trial whose validation gave the trial's value."""

from __future__ import annotations

import math
from pathlib import Path

from etils import epath

from clac_jax.checkpoint.layout import CHECKPOINTS, step_folders
from clac_jax.errors import UserError
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.storage import TrialRecord


class UnsavedModelError(UserError):
    """The state with a trial's value was not saved."""


def checkpoint_name(definition: Definition, trial: TrialRecord, folder: Path) -> str:
    """Names the checkpoint of a trial that has its value, as for `config.resume_from`.

    It need not be `@best` of the run: that is the best one that was saved, and of a generation of a
    population the value is that of its end.

    Args:
        definition: the sweep.
        trial: a complete trial.
        folder: its folder.

    Raises:
        UnsavedModelError: the run has checkpoints, but none of that step.
        UnreadableCheckpointError: they cannot be read.
    """
    steps = [step for step, _, value in trial.values if value == trial.value]
    if definition.population is not None:
        steps = steps[-1:]
    saved = list(step_folders(epath.Path(folder) / CHECKPOINTS))
    there = [step for step in steps if step in saved]
    if saved and not there:
        raise UnsavedModelError(_unsaved(definition, trial, folder, steps[0], saved))
    return f"{folder}@step={(there or steps)[0]}"


def _unsaved(
    definition: Definition, trial: TrialRecord, folder: Path, step: int, saved: list[int]
) -> str:
    """The sentence on a step that is not among the saved ones."""
    values = {step: value for step, _, value in trial.values}
    ranked = sorted(
        (each for each in saved if math.isfinite(values.get(each, math.nan))),
        key=lambda each: -values[each] if definition.mode == "max" else values[each],
    )
    listed = ", ".join(
        f"step {each} ({definition.monitor} {values[each]:.5g})"
        if each in values
        else f"step {each} (not validated)"
        for each in saved
    )
    exported = [*ranked, *reversed(saved)][0]
    return (
        f"Trial {trial.number} reached {definition.monitor} {trial.value:.5g} at step {step}, "
        f"which was not saved. {folder} has {listed}. `clac-jax publish {folder}@step={exported} "
        "FOLDER` exports one; in later sweeps, set checkpoint.every_n_epochs to 1 and "
        "checkpoint.save_top_k to at least 1."
    )
