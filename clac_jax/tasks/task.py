"""The interface that the training loop requires of a task."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import flax.struct
import jax

from clac_jax.input_pipeline.batch import Batch
from clac_jax.training.state import TrainState

Row = dict[str, Any]
"""One row of metrics.jsonl."""

Measures = dict[str, Any]
"""Name -> value, as in a row of metrics.jsonl."""

Report = Callable[[Path, Sequence[Row], Mapping[str, float]], None]
"""Draws the report to a path, from all rows of the run and the seconds by what they went into."""


@flax.struct.dataclass
class ExampleFacts:
    """Results of a step for each of its examples, on one device or gathered from all.

    Attributes:
        terms: name -> (B,) the example's part of a term of the loss, whose mean is the term; terms
            that are not a mean over examples are missing.
        finite: (B,) bool, whether everything that the model computes only from the example is.
        similarity: (B, columns) score of each text (row) with each crystal of all devices, first
            views; None if nothing is contrasted.
        predicted: (B,) float32 predictions of the property; None if no property is learned.
    """

    terms: dict[str, jax.Array]
    finite: jax.Array
    similarity: jax.Array | None = None
    predicted: jax.Array | None = None


class Task(abc.ABC):
    """A model, its loss and its measures: everything that differs between two kinds of training.

    Attributes:
        model: called with (batch, train=, key=, axis_name=).
        absent_terms: loss terms that every train row has, with the value for models without them.
    """

    model: nn.Module
    absent_terms: ClassVar[Mapping[str, float]] = {}

    @abc.abstractmethod
    def initialize(self, example: Batch) -> dict[str, Any]:
        """The initial variables of a new run.

        Args:
            example: a training batch for one device, of any size.
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
        """The quantity to minimize; see `clac_jax.training.losses.Loss`.

        Args:
            output: the model's output for this device's examples.
            batch: the batch on this device.
            axis_name: mapped axis of the devices that share the batch; None for a single device.
            key: PRNG key of the step, the same on every device.

        Returns:
            This device's share of the loss, (), and its terms, each () and the same on every
            device.
        """

    @abc.abstractmethod
    def by_example(
        self,
        output: Any,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: jax.Array | None = None,
    ) -> ExampleFacts:
        """The loss and what the model computed, for each example of this device.

        Arguments as for `loss`.
        """

    @abc.abstractmethod
    def validate(self, state: TrainState, batches: Iterable[Batch]) -> Measures:
        """The measures of a validation row.

        Args:
            state: training state on the devices.
            batches: batches of the validation split, with a leading device axis.
        """

    @abc.abstractmethod
    def test(self, state: TrainState) -> tuple[Measures, Report]:
        """The measures of the test row, and a function that draws the report."""

    @abc.abstractmethod
    def describe_validation(self, row: Row) -> str:
        """A one-line description of a validation row."""

    @abc.abstractmethod
    def describe_test(self, row: Row) -> str:
        """A description of the test row in a few lines."""
