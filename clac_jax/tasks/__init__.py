"""The task of a run: model, loss and evaluation measures. The training loop is shared by all."""

from __future__ import annotations

import ml_collections

from clac_jax.input_pipeline.run_data import RunData
from clac_jax.tasks.contrastive import Contrastive
from clac_jax.tasks.property import Property
from clac_jax.tasks.task import Task
from clac_jax.training.parallel import Parallel

__all__ = ["Task", "make_task"]


def make_task(config: ml_collections.ConfigDict, data: RunData, parallel: Parallel) -> Task:
    """The task selected by a config.

    Raises:
        ModelError, PretrainedError: the model does not exist or its sizes do not fit.
    """
    return (Property if config.task == "property" else Contrastive)(config, data, parallel)
