"""Embeds a whole split with a trained model and measures loss and retrieval."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from clac_jax.input_pipeline.batch import Batch
from clac_jax.tasks.metrics import pool_metrics
from clac_jax.training.parallel import Parallel
from clac_jax.typing import Array


@dataclass(frozen=True)
class Evaluation:
    """A split seen by a model.

    Attributes:
        metrics: `loss`, `acc_top1`, `acc_top3` (in batch, means over examples) and the retrieval
            accuracies over the whole pool, see `metrics.pool_metrics`.
        similarity: (N, N) float32 score of each text (row) with each crystal (column), in the order
            of the split.
    """

    metrics: dict[str, float]
    similarity: np.ndarray


def evaluate(
    parallel: Parallel,
    eval_step: Callable[[Any, Batch], Any],
    score: Callable[[Any, Array, Array], jax.Array],
    state: Any,
    batches: Iterable[Batch],
    suffix: str = "",
) -> Evaluation:
    """Runs `eval_step` over the batches of a split.

    Args:
        parallel: how steps run on all devices.
        eval_step: from its `evaluate`.
        score: from `step.make_score`.
        state: TrainState on the devices.
        batches: with a leading device axis; padding examples masked.
        suffix: appended to the names of the retrieval accuracies ("_no_formula").
    """
    crystals, texts, order, sums = [], [], [], []
    for batch in batches:
        embedded = parallel.to_host(eval_step(state, batch))
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
    head = parallel.to_host({"cross_head": state.params["cross_head"]})
    similarity = np.asarray(score(head, *pool)).T
    return Evaluation({**metrics, **pool_metrics(similarity, suffix)}, similarity)
