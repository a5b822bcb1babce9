"""What the training loop asks of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import flax.linen as nn

from clac_jax.input_pipeline.batch import Batch
from clac_jax.training.losses import Loss

Row = dict[str, Any]
Draw = Callable[[Path, Sequence[Row]], None]


class Task(Protocol):
    """A model, its loss and its measures.

    Attributes:
        model: called with (batch, train=, key=, axis_name=).
        loss: what is minimized.
        absent_terms: terms of the loss that every train row has, where the model lacks them.
    """

    absent_terms: ClassVar[Mapping[str, float]]

    @property
    def model(self) -> nn.Module: ...  # noqa: D102
    @property
    def loss(self) -> Loss: ...  # noqa: D102

    def initialise(self, example: Batch) -> dict[str, Any]:
        """The variables of a fresh run; `example` is a training batch of any size."""

    def validate(self, state: Any, batches: Iterable[Batch]) -> dict[str, Any]:
        """The measures of a validation row, by their names there."""

    def test(self, state: Any) -> tuple[dict[str, Any], Draw]:
        """The measures of the test row, and what draws the report from all rows."""

    def describe_validation(self, row: Row) -> str:
        """One line on a validation row."""

    def describe_test(self, row: Row) -> str:
        """Some lines on the test row."""
