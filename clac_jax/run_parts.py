"""The model, optimizer and step of a run, as its config and data determine them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import ml_collections
import optax

from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.input_pipeline.batch import Batch
from clac_jax.models import abstract_variables
from clac_jax.tasks import Task
from clac_jax.training import optim
from clac_jax.training.ema import Averaging
from clac_jax.training.parallel import Parallel
from clac_jax.training.state import TrainState, create_train_state, with_average
from clac_jax.training.step import TrainStep


@dataclass(frozen=True)
class Parts:
    """The programs and shapes of the steps of a run; nothing in it changes during training.

    Attributes:
        config: the run's config.
        task: the model, its loss and its measures.
        parallel: placement of the state and the steps on the devices.
        params: shapes and dtypes of the parameters.
        trainable: a tree of booleans like the parameters.
        template: shapes and dtypes of the state on the host; its optimizer has no schedule.
        shapes: slash path -> shape and dtype of every array of the state, and its sharding.
        create: makes a state at step 0 from the variables of the model.
        example: a training batch of one device, from which the parameters are initialized.
    """

    config: ml_collections.ConfigDict
    task: Task
    parallel: Parallel
    params: Any
    trainable: Any
    template: TrainState
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    create: Callable[..., TrainState]
    example: Batch

    def initialize(self) -> dict[str, Any]:
        """The arrays of a fresh state by slash path; a collective if arrays are sharded."""
        state = self.parallel.initialize(
            self._variables,
            functools.partial(self.create, seed=self.config.seed),
            self.template,
        )
        return to_arrays(state)

    def _variables(self) -> dict[str, Any]:
        """The variables of a fresh model, computed on the host.

        An accelerator would compile hundreds of small random draws, each of which it runs once.
        It does where JAX_PLATFORMS leaves out the CPU, and its numbers differ in the last bits.
        """
        try:
            host = jax.local_devices(backend="cpu")[0]
        except RuntimeError:
            return self.task.initialize(self.example)
        with jax.default_device(host):
            return self.task.initialize(self.example)

    def scheduled(self, schedule: optax.Schedule) -> TrainState:
        """The template, with the optimizer of a schedule."""
        tx = optim.make_optimizer(self.config, self.params, schedule)
        scheduled: TrainState = self.template.replace(tx=tx)
        return scheduled

    def train_step(self, schedule: optax.Schedule, on: Parallel | None = None) -> TrainStep:
        """The training step; it reuses the memory of the state that it receives.

        Args:
            schedule: the learning rate.
            on: the placement; by default that of the run.
        """
        has_digests = self.config.journal.digest_every > 0
        parallel = on or self.parallel
        return parallel.train(self.trainable, schedule, self.task.loss, digests=has_digests)

    def placed(self, template: TrainState, arrays: Mapping[str, Any]) -> TrainState:
        """A state on the devices.

        Args:
            template: see `scheduled`.
            arrays: slash path -> array, for the entire state.
        """
        state: TrainState = self.parallel.put(from_arrays(template, arrays))
        return state


def make_parts(
    config: ml_collections.ConfigDict, task: Task, example: Batch, parallel: Parallel
) -> Parts:
    """Derives the shapes of all arrays, before any array is allocated or read.

    Args:
        config: the run's config, complete and checked.
        task: the run's task.
        example: a training batch of one device, of any size.
        parallel: the run's placement.
    """
    abstract = abstract_variables(task.model, example)
    create, template = make_template(config, task.model, abstract)
    trainable = optim.trainable_parameters(config, abstract["params"])
    return Parts(
        config=config,
        task=task,
        parallel=parallel,
        params=abstract["params"],
        trainable=trainable,
        template=template,
        shapes=to_arrays(parallel.describe(template)),
        create=create,
        example=example,
    )


def make_template(
    config: ml_collections.ConfigDict, model: nn.Module, abstract: dict[str, Any]
) -> tuple[Callable[..., TrainState], TrainState]:
    """A function that makes a state at step 0 from the variables of a model, and its shapes.

    Args:
        config: the run's config, complete and checked.
        model: the model.
        abstract: shapes and dtypes of its variables.
    """
    tx = optim.make_optimizer(config, abstract["params"], optax.constant_schedule(0.0))
    trainable = optim.trainable_parameters(config, abstract["params"])
    averaging = Averaging.from_config(config.ema)

    def create(variables: dict[str, Any], seed: int) -> TrainState:
        state = create_train_state(model.apply, variables, tx, seed)
        return with_average(state, averaging, trainable)

    return create, jax.eval_shape(lambda variables: create(variables, seed=config.seed), abstract)
