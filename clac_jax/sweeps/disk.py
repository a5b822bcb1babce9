"""The disk space of a sweep: only the best trials keep their checkpoints."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from etils import epath

from clac_jax.checkpoint.layout import CHECKPOINTS, read_all
from clac_jax.checkpoint.sharing import collect, stores_of
from clac_jax.checkpoint.usage import usage_of
from clac_jax.distributed.workdir import LOCK_FILE
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.opened import folder_of
from clac_jax.sweeps.storage import State, TrialRecord

_REMOVED = "checkpoints.removed"


def ranked(definition: Definition, trials: Sequence[TrialRecord]) -> list[TrialRecord]:
    """The complete trials from the best to the worst; of equal ones, the first comes first."""
    complete = [(t, t.value) for t in trials if t.state is State.COMPLETE and t.value is not None]
    sign = -1.0 if definition.mode == "max" else 1.0
    return [trial for trial, value in sorted(complete, key=lambda pair: sign * float(pair[1] or 0))]


def free_checkpoints(
    definition: Definition,
    trials: Sequence[TrialRecord],
    workdir: Path,
    states: Sequence[State] = (State.COMPLETE,),
) -> Iterator[str]:
    """Removes the checkpoints of trials that are not among the best; yields a line for each.

    Those of pruned and failed trials stay unless their state is given: such a trial can be revived.
    On a machine that does not have a trial's folder, nothing happens.

    Args:
        definition: the sweep.
        trials: all trials.
        workdir: the folder of the sweep.
        states: trials of which states lose their checkpoints.
    """
    if not definition.keep_checkpoints:
        return
    best = {trial.number for trial in ranked(definition, trials)[: definition.keep_checkpoints]}
    for trial in trials:
        folder = folder_of(workdir, trial)
        if trial.state in states and trial.number not in best and (folder / CHECKPOINTS).is_dir():
            freed = remove_checkpoints(folder)
            if freed is not None:
                yield f"trial {trial.number:<4} checkpoints removed, {freed / 1e6:.1f} MB freed"


def remove_checkpoints(folder: Path) -> int | None:
    """Removes the checkpoints of a run, also from its store; its rows and other files stay.

    Returns:
        The freed bytes; None if a run is writing there, or another program was faster.
    """
    try:
        with open(folder / LOCK_FILE, "a+b") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            intact, _ = read_all(epath.Path(folder / CHECKPOINTS))
            stores = stores_of(info.config for info in intact.values())
            removed = folder / _REMOVED
            shutil.rmtree(removed, ignore_errors=True)  # left by a kill
            os.rename(folder / CHECKPOINTS, removed)
            freed = usage_of([removed]).own  # not what other runs have too
            shutil.rmtree(removed, ignore_errors=True)
            for store in stores:
                collect(store)
            return freed
    except OSError:
        return None
