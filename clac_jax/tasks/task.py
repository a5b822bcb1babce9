"""What the training loop asks of a task."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax

from clac_jax.input_pipeline.batch import Batch
from clac_jax.training.state import TrainState

Row = dict[str, Any]
"""Of metrics.jsonl."""

Measures = dict[str, Any]
"""Name -> value, as a row of metrics.jsonl has them."""

Report = Callable[[Path, Sequence[Row]], None]
"""Draws the report to a path, from all rows of the run."""


class Task(abc.ABC):
    """A model, its loss and its measures: everything in which two kinds of training differ.

    Attributes:
        model: called with (batch, train=, key=, axis_name=).
        absent_terms: terms of the loss that every train row has, where the model lacks them.
    """

    model: nn.Module
    absent_terms: ClassVar[Mapping[str, float]] = {}

    @abc.abstractmethod
    def initialise(self, example: Batch) -> dict[str, Any]:
        """The variables of a fresh run.

        Args:
            example: a training batch of one device, of any size.
        """

    @abc.abstractmethod
    def loss(
        self,
        output: Any,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """What is minimized; see `clac_jax.training.losses.Loss`.

        Args:
            output: of the model, for this device's examples.
            batch: of this device.
            axis_name: mapped axis of the devices that share the batch; None where it is here.
            key: PRNG key of the step, the same on every device.

        Returns:
            This device's share of the loss, (), and its terms, each () and the same on every
            device.
        """

    @abc.abstractmethod
    def validate(self, state: TrainState, batches: Iterable[Batch]) -> Measures:
        """The measures of a validation row.

        Args:
            state: on the devices.
            batches: of the validation split, with a leading device axis.
        """

    @abc.abstractmethod
    def test(self, state: TrainState) -> tuple[Measures, Report]:
        """The measures of the test row, and what draws the report."""

    @abc.abstractmethod
    def describe_validation(self, row: Row) -> str:
        """A validation row in one line."""

    @abc.abstractmethod
    def describe_test(self, row: Row) -> str:
        """The test row in a few lines."""
