"""Supervised training on one crystal property, usually from a pretrained graph encoder."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models.encoders import build_graph_encoder, with_pretrained_graph_encoder
from clac_jax.models.property_model import PropertyModel, PropertyOutput
from clac_jax.reporting.figures import write_property_report
from clac_jax.tasks.task import ExampleFacts, Measures, Report, Row, Task
from clac_jax.training.parallel import Parallel
from clac_jax.training.state import TrainState
from clac_jax.training.step import AXIS


def spread(labels: np.ndarray) -> float:
    """The standard deviation by which labels are divided, in their unit; 1 if they are equal."""
    std = float(np.std(labels))
    # Equal labels can have a tiny one, by the rounding of their mean; float32 has 7 digits.
    return std if std > 1e-7 * float(np.max(np.abs(labels))) else 1.0


class Property(Task):
    """Regression minimizes the squared error, classification the cross-entropy."""

    model: PropertyModel

    def __init__(self, config: ml_collections.ConfigDict, data: RunData, parallel: Parallel):
        """Builds the model and scans the labels of the training split.

        Raises:
            ModelError: the graph encoder does not exist.
            DataError: a label is not a class.
        """
        self._config = config
        self._data = data
        self._is_regression = config.property.kind == "regression"
        self._measure = "mae" if self._is_regression else "accuracy"
        self._labels = data.splits.train_labels()
        num_outputs = 1 if self._is_regression else data.splits.num_classes()
        self.model = PropertyModel(build_graph_encoder(config), num_outputs)
        self._parallel = parallel
        self._predict = parallel.evaluate(self._predict_step)

    def initialize(self, example: Batch) -> dict[str, Any]:
        """Random or pretrained weights, a head of zeros, and the label normalization."""
        key = jax.random.key(self._config.seed)
        variables = dict(jax.jit(lambda k: self.model.init(k, example, train=True))(key))
        variables["params"] = with_pretrained_graph_encoder(variables["params"], self._config)
        if self._is_regression:
            variables["batch_stats"] = {
                **variables["batch_stats"],
                "label_mean": jnp.float32(np.mean(self._labels)),
                "label_std": jnp.float32(spread(self._labels)),
            }
        return variables

    def loss(
        self,
        output: PropertyOutput,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Mean over the real examples of all devices; terms: `loss`, and `mae` or `accuracy`."""
        del key
        mask, labels = jnp.asarray(batch.example_mask), jnp.asarray(batch.labels)

        def total(x: jax.Array) -> jax.Array:
            return x if axis_name is None else jax.lax.psum(x, axis_name)

        count = jnp.maximum(total(jnp.sum(mask)), 1)

        def share(x: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(mask, x, 0)) / count

        loss, measure = map(share, self._of_each(output, labels))
        return loss, {"loss": total(loss), self._measure: total(measure)}

    def by_example(
        self,
        output: PropertyOutput,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: jax.Array | None = None,
    ) -> ExampleFacts:
        """See `Task.by_example`."""
        del axis_name, key
        losses, measures = self._of_each(output, jnp.asarray(batch.labels))
        return ExampleFacts(
            terms={"loss": losses, self._measure: measures.astype(jnp.float32)},
            finite=jnp.all(jnp.isfinite(output.outputs), axis=1),
            predicted=self._predicted(output).astype(jnp.float32),
        )

    def _of_each(self, output: PropertyOutput, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(B,) losses, and (B,) errors or whether the class is right."""
        if self._is_regression:
            target = (labels - output.mean) / output.std
            losses = jnp.square(output.outputs[:, 0] - target)
            return losses, jnp.abs(output.values - labels)
        classes = labels.astype(jnp.int32)
        losses = optax.softmax_cross_entropy_with_integer_labels(output.outputs, classes)
        return losses, jnp.argmax(output.outputs, axis=1) == classes

    def _predicted(self, output: PropertyOutput) -> jax.Array:
        """(B,) values or classes."""
        return output.values if self._is_regression else jnp.argmax(output.outputs, axis=1)

    def validate(self, state: TrainState, batches: Iterable[Batch]) -> Measures:
        """`val_loss`, and `val_mae` or `val_accuracy`."""
        return self._measures("val", *self._predictions(state, batches))

    def test(self, state: TrainState) -> tuple[Measures, Report]:
        """`test_loss` and `test_mae` or `test_accuracy`, compared with a constant guess."""
        predicted, labels, loss = self._predictions(state, self._data.eval_batches("test"))
        if self._is_regression:
            guess = float(np.mean(np.abs(labels - np.mean(self._labels))))
        else:
            values, counts = np.unique(self._labels, return_counts=True)
            guess = float(np.mean(labels == values[counts.argmax()]))
        measures = {
            **self._measures("test", predicted, labels, loss),
            f"constant_guess_{self._measure}": guess,
        }
        name = self._config.property.name
        report = functools.partial(
            write_property_report, name=name, predicted=predicted, labels=labels
        )
        return measures, report

    def describe_validation(self, row: Row) -> str:
        """The loss and the measure, in one line."""
        return f"val_loss {row['val_loss']:.4f}  {self._shown(row, 'val')}"

    def describe_test(self, row: Row) -> str:
        """The measure, compared with that of a constant guess."""
        guess = "mean" if self._is_regression else "commonest class"
        return (
            f"test      {row['pool_size']} unseen crystals, checkpoint of step "
            f"{row['checkpoint_step']}: {self._config.property.name} {self._shown(row, 'test')} "
            f"(always the {guess} of training: {row[f'constant_guess_{self._measure}']:.4f})"
        )

    def _shown(self, row: Row, split: str) -> str:
        return f"{self._measure.upper()} {row[f'{split}_{self._measure}']:.4f}"

    def _measures(
        self, split: str, predicted: np.ndarray, labels: np.ndarray, loss: float
    ) -> Measures:
        right = np.abs(predicted - labels) if self._is_regression else predicted == labels
        measure = float(np.mean(right))
        return {
            f"{split}_loss": loss,
            f"{split}_{self._measure}": measure,
            "pool_size": len(labels),
        }

    def _predict_step(self, state: TrainState, batch: Batch) -> tuple[jax.Array, ...]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        output = state.apply_fn(variables, batch, train=False)
        loss, _ = self.loss(output, batch, axis_name=AXIS)
        rows = jax.lax.all_gather((self._predicted(output), batch.labels, batch.example_mask), AXIS)
        return *rows, jax.lax.psum(loss, AXIS)

    def _predictions(
        self, state: TrainState, batches: Iterable[Batch]
    ) -> tuple[np.ndarray, np.ndarray, float]:
        """Predictions, labels and mean loss of a split."""
        predicted, labels, losses = [], [], []  # one of each per batch
        for batch in batches:
            values, wanted, mask, loss = self._parallel.to_host(self._predict(state, batch))
            predicted.append(values[mask])
            labels.append(wanted[mask])
            losses.append((float(loss), int(mask.sum())))
        loss = float(np.average([x for x, _ in losses], weights=[n for _, n in losses]))
        return np.concatenate(predicted), np.concatenate(labels), loss
