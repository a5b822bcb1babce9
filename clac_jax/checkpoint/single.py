"""A workdir with a single checkpoint of a model that no run has saved there."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.layout import CHECKPOINTS, CheckpointInfo, read_all
from clac_jax.checkpoint.lineage import Recorder
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import UserError, WorkdirError, one_line
from clac_jax.files.paths import explain
from clac_jax.training.progress import RunProgress


class NotEmptyError(UserError):
    """A workdir is in use already."""


@dataclass(frozen=True)
class ModelFacts:
    """The facts about a model that its checkpoint holds besides the config.

    Attributes:
        progress: position of its training.
        metrics: results of its validation; None if it has not been validated.
        num_train_examples: size of the split that the position refers to.
        data: split name -> fingerprint of the data.
        made_from: see `CheckpointInfo.made_from`.
    """

    progress: RunProgress
    metrics: Mapping[str, float] | None
    num_train_examples: int
    data: Mapping[str, str] = field(default_factory=dict)
    made_from: Mapping[str, Any] | None = None


def require_empty(workdir: Path) -> None:
    """Refuses a workdir in which there is anything but hidden files, such as an old lock.

    Raises:
        NotEmptyError: the workdir is not empty, or a file has its name.
        WorkdirError: the workdir cannot be read.
    """
    try:
        names = sorted(path.name for path in workdir.iterdir() if path.name[0] != ".")
    except FileNotFoundError:
        return
    except NotADirectoryError as error:
        raise NotEmptyError(f"{workdir} is a file. Name a new folder.") from error
    except OSError as error:
        raise WorkdirError(f"Cannot read {workdir}: {explain(error)}") from error
    if CHECKPOINTS in names:
        raise NotEmptyError(f"{workdir} holds checkpoints already. Name another folder.")
    if names:
        raise NotEmptyError(
            f"{workdir} is not empty: it holds {one_line(names[0], 80)}. Name a new folder."
        )


def save_single(
    workdir: Path, config: ml_collections.ConfigDict, arrays: Arrays, facts: ModelFacts
) -> str:
    """Makes a workdir whose only checkpoint has this model, without optimizer state.

    A run that starts from it begins with zero moments.

    Args:
        workdir: receives `checkpoints/<step>`.
        config: config of the model.
        arrays: slash path -> array of the parameters and batch statistics.
        facts: what the checkpoint says besides.

    Returns:
        Path of the checkpoint's folder.

    Raises:
        NotEmptyError: the workdir has checkpoints.
        WorkdirError: a run is writing there.
        CheckpointError: it cannot be saved.
    """
    with Workdir(workdir):  # fails if a run is writing there
        if read_all(epath.Path(workdir) / CHECKPOINTS)[0]:
            raise NotEmptyError(f"{workdir} holds checkpoints already. Name another folder.")
        saved = arrays | {"step": np.asarray(facts.progress.step, np.int32)}
        checkpoints = Checkpoints(
            workdir,
            config,
            {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in saved.items()},
            facts.num_train_examples,
            data=facts.data,
        )
        checkpoints.chain = _Lineage(facts.made_from)
        checkpoints.save(saved, facts.progress, facts.metrics)
        checkpoints.close()
    return str(checkpoints.directory / str(facts.progress.step))


class _Lineage(Recorder):
    """Writes what a model was made from into the description of its checkpoint."""

    def __init__(self, made_from: Mapping[str, Any] | None):
        super().__init__()
        self._made_from = made_from

    def begin(self) -> Callable[[CheckpointInfo], CheckpointInfo]:
        recorded = super().begin()
        return lambda info: dataclasses.replace(recorded(info), made_from=self._made_from)
