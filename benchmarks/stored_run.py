"""A training run on one stored batch, with the production checkpoints but without a data set.

Measuring saves and resumes takes a state, a training step and a workdir, but no crystals or texts
on disk.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import ml_collections

from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.packing import stacked
from clac_jax.models import abstract_variables, build_model, init_variables
from clac_jax.training.losses import make_loss
from clac_jax.training.optim import make_optimizer, trainable_mask
from clac_jax.training.parallel import Pmap
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import create_train_state


class StoredRun:
    """Model, optimizer and step of a config, all on the same batch.

    Attributes:
        shapes: shape of each array of a state, by path.
    """

    def __init__(self, config: ml_collections.ConfigDict, batch: Batch) -> None:
        """Builds the model and optimizer; nothing is compiled yet.

        Args:
            config: config of the run.
            batch: batch of one device.
        """
        self._config, self._one, self._parallel = config, batch, Pmap()
        self._batch = stacked([stacked([batch])])
        self._model = build_model(config)
        abstract = abstract_variables(self._model, batch)
        schedule = make_schedule(config, Timeline(1000, 1000))
        self._create = functools.partial(
            create_train_state,
            self._model.apply,
            tx=make_optimizer(config, abstract["params"], schedule),
            seed=config.seed,
        )
        self._template = jax.eval_shape(self._create, abstract)
        self.shapes = to_arrays(self._template)
        trainable = trainable_mask(abstract["params"], config.frozen)
        self._step = self._parallel.train(trainable, schedule, make_loss())

    def initialize(self) -> dict[str, Any]:
        """The arrays of a fresh state."""
        return to_arrays(self._create(init_variables(self._model, self._config, self._one)))

    def put(self, arrays: dict[str, Any]) -> Any:
        """A state on the devices, ready to train; waits for the transfer."""
        state = self._parallel.put(from_arrays(self._template, arrays))
        return jax.block_until_ready(state)

    def step(self, state: Any) -> Any:
        """The state after one more step, waiting for it; the memory of the old state is reused."""
        state, metrics = self._step(state, self._batch)
        jax.block_until_ready((state, metrics))
        return state

    def arrays(self, state: Any) -> dict[str, Any]:
        """The arrays of a state as a checkpoint stores them, still on a device."""
        return to_arrays(self._parallel.local(state))

    def host_arrays(self, state: Any) -> dict[str, Any]:
        """Copies of the arrays of a state in host memory."""
        return to_arrays(self._parallel.to_host(state))

    def checkpoints(self, workdir: Path) -> Checkpoints:
        """The checkpoints of the workdir, ready to save."""
        checkpoints = Checkpoints(workdir, self._config, self.shapes)
        checkpoints._allocated.result()  # allocated in the background while a run compiles
        return checkpoints

    def resume(self, workdir: Path) -> tuple[dict[str, Any], RunProgress]:
        """The arrays and progress that a run in this workdir starts with: its own, or fresh."""
        origin = resume.find_origin(self._config, workdir)
        present = Present(self._config, 0, {})
        start = resume.begin(origin, workdir, present, self.shapes, self.initialize)
        return start.arrays, start.progress
