"""Embedding of a split with a trained model on all devices; measures loss and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import flax.struct
import jax
import numpy as np

from clac_jax.input_pipeline.batch import Batch
from clac_jax.models import CLaC
from clac_jax.tasks.metrics import pool_metrics
from clac_jax.training.losses import LossOptions, clac_loss
from clac_jax.training.parallel import Parallel
from clac_jax.training.state import TrainState
from clac_jax.training.step import AXIS, EvalStep
from clac_jax.typing import Array


@flax.struct.dataclass
class Embedded:
    """The result of an evaluation step, the same on every device.

    Attributes:
        crystals: (D, B, P) float32 projections of the crystals on each of D devices.
        texts: (D, B, P) float32 projections of their texts.
        example_mask: (D, B) bool, False at padding.
        example_index: (D, B) int32 index of the example in its split.
        metrics: loss and accuracies within the global batch, scalars.
    """

    crystals: jax.Array
    texts: jax.Array
    example_mask: jax.Array
    example_index: jax.Array
    metrics: dict[str, jax.Array]


@dataclass(frozen=True)
class Evaluation:
    """The result of evaluating a split.

    Attributes:
        metrics: `loss`, `acc_top1`, `acc_top3` (within the batch, averaged over examples) and the
            retrieval accuracies over the entire pool, see `metrics.pool_metrics`.
        similarity: (N, N) float32 score of each text (row) with each crystal (column), in the order
            of the split.
    """

    metrics: dict[str, float]
    similarity: np.ndarray


def make_score(model: CLaC) -> Callable[[Any, Array, Array], jax.Array]:
    """A jitted function (params, (N, P) crystals, (M, P) texts) -> (N, M) scores."""

    @jax.jit
    def score(params: Any, crystals: Array, texts: Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            scores = model.apply({"params": params}, crystals, texts, method="scores")
            return cast(jax.Array, scores)

    return score


def make_eval_step(loss_options: LossOptions, axis_name: str | None = AXIS) -> EvalStep:
    """(state, batch) -> Embedded for one device; first views only, without dropout."""

    def forward(state: TrainState, batch: Batch) -> tuple[Any, Array, Array]:
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        output = state.apply_fn(variables, batch, train=False)
        return output, batch.example_mask, batch.example_index

    def measure(result: tuple[Any, Array, Array]) -> Embedded:
        output, mask, index = result
        _, metrics = clac_loss(output, mask, loss_options, axis_name=axis_name)
        local = output.graph_projections[0], output.text_projections[0], mask, index
        if axis_name is None:
            gathered = jax.tree.map(lambda leaf: leaf[None], local)
        else:
            gathered = jax.lax.all_gather(local, axis_name)
        crystals, texts, masks, indices = gathered
        return Embedded(crystals, texts, masks, indices, metrics)

    return EvalStep(forward, measure)


class Evaluator:
    """Evaluates a contrastive model with two compiled functions: the step and the scores."""

    def __init__(self, model: CLaC, options: LossOptions, parallel: Parallel):
        """For `model`, on the devices of `parallel`."""
        self._parallel = parallel
        self._step = parallel.evaluate(make_eval_step(options))
        self._score = make_score(model)

    def __call__(self, state: Any, batches: Iterable[Batch], suffix: str = "") -> Evaluation:
        """Runs the evaluation step over the batches of a split.

        Args:
            state: TrainState on the devices.
            batches: evaluation batches with a leading device axis; padding examples are masked.
            suffix: appended to the names of the retrieval accuracies ("_no_formula").
        """
        to_host = self._parallel.to_host
        crystals, texts, order, sums = [], [], [], []
        for batch in batches:
            embedded = to_host(self._step(state, batch))
            mask = embedded.example_mask
            crystals.append(embedded.crystals[mask])
            texts.append(embedded.texts[mask])
            order.append(embedded.example_index[mask])
            sums.append((int(mask.sum()), jax.tree.map(float, embedded.metrics)))
        ranked = np.argsort(np.concatenate(order))
        pool = np.concatenate(crystals)[ranked], np.concatenate(texts)[ranked]
        counts = [count for count, _ in sums]
        metrics = {
            name: float(np.average([values[name] for _, values in sums], weights=counts))
            for name in ("loss", "acc_top1", "acc_top3")
        }
        head = to_host({"cross_head": state.params["cross_head"]})
        similarity = np.asarray(self._score(head, *pool)).T
        return Evaluation({**metrics, **pool_metrics(similarity, suffix)}, similarity)
