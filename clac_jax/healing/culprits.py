"""Which examples of a batch make its loss or its gradient unusable, by the model's own results.

A batch is computed again with only some of its examples; the slots of the others stay empty, so
that nothing but the examples differs from the step itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.training.losses import Loss
from clac_jax.training.state import TrainState
from clac_jax.training.step import AXIS, make_gradients

Result = tuple[float, float]
"""Loss and norm of the gradient."""

Probe = Callable[[Collection[int]], Result]
"""Computes a batch with only some of its examples."""


@dataclass(frozen=True)
class Culprit:
    """An example that is to blame.

    Attributes:
        index: its index in the training split.
        loss: the loss of the batch with only this example, or without it; see `what`.
        grad_norm: norm of the gradient of that batch.
        what: what these values are of.
    """

    index: int
    loss: float
    grad_norm: float
    what: str

    def describe(self, name: str, views: ExampleViews) -> str:
        """A clause with the example's name, its results and what is unusual about it."""
        about = describe_views(views)
        return (
            f"example {self.index} ({name}; {about}): {self.what} the loss is {self.loss:.4g} and "
            f"the gradient norm {self.grad_norm:.4g}"
        )


def not_finite(examples: Sequence[int], probe: Probe, most: int) -> list[Culprit]:
    """The examples that make a loss or gradient non-finite; [] if it is not a few of them.

    Args:
        examples: the examples of the batch.
        probe: computes it with some of them.
        most: largest number of examples to blame; if more have such results on their own, the
            parameters are to blame.
    """
    single = {each: probe([each]) for each in examples}
    bad = [each for each, result in single.items() if not _finite(result)]
    if not bad:  # only together with others
        return _by_leaving_out(examples, probe, _finite, most)
    rest = [each for each in examples if each not in bad]
    if len(bad) > most or not rest or not _finite(probe(rest)):
        return []
    return [Culprit(each, *single[each], "on its own") for each in bad]


def above(examples: Sequence[int], probe: Probe, threshold: float, most: int) -> list[Culprit]:
    """The fewest examples without which the loss of a batch is not above a threshold; [] if none.

    Args:
        examples: the examples of the batch.
        probe: computes it with some of them.
        threshold: the largest usual loss.
        most: largest number of examples to blame.
    """

    def is_usual(result: Result) -> bool:
        return _finite(result) and result[0] <= threshold

    return _by_leaving_out(examples, probe, is_usual, most)


def _by_leaving_out(
    examples: Sequence[int], probe: Probe, is_good: Callable[[Result], bool], most: int
) -> list[Culprit]:
    """Leaves out the example without which the loss is lowest, until the result is good."""
    left, found = list(examples), list[Culprit]()
    while len(found) < most and len(left) > 1:
        results = {each: probe([other for other in left if other != each]) for each in left}
        best = min(results, key=lambda each: (_rank(results[each]), left.index(each)))
        found.append(Culprit(best, *results[best], "without it"))
        left.remove(best)
        if is_good(results[best]):
            return found
    return []


def _finite(result: Result) -> bool:
    return all(math.isfinite(value) for value in result)


def _rank(result: Result) -> float:
    return result[0] if _finite(result) else math.inf


def make_probe_step(trainable: Any, loss: Loss) -> Callable[[TrainState, Batch], Any]:
    """(state, batch) -> loss and gradient norm of a batch, for one device of several.

    Args:
        trainable: a tree of booleans like the parameters; no gradient is computed where False.
        loss: the loss of the run.
    """
    gradients = make_gradients(trainable, loss, AXIS)

    def probe(state: TrainState, batch: Batch) -> dict[str, jax.Array]:
        gradient = gradients(state, batch)
        return {"loss": gradient.terms["loss"], "grad_norm": optax.tree.norm(gradient.grads)}

    return probe


def describe_views(views: ExampleViews) -> str:
    """The unusual in an example: numbers that are not finite, atoms that nearly coincide."""
    facts = [f"{len(views.graphs[0].atomic_numbers)} atoms"]
    for graph in views.graphs[:1]:
        if not np.isfinite(graph.edge_vectors).all() or not np.isfinite(graph.lattice).all():
            facts.append("coordinates that are not finite")
        elif len(graph.edge_vectors):
            lengths = np.linalg.norm(graph.edge_vectors.astype(np.float64), axis=1)
            facts.append(f"shortest distance {lengths.min():.3g} angstrom")
        with np.errstate(all="ignore"):
            volume = abs(float(np.linalg.det(graph.lattice.astype(np.float64))))
        facts.append(f"{volume / len(graph.atomic_numbers):.3g} cubic angstrom per atom")
    if views.label is not None:
        with np.errstate(over="ignore"):
            is_finite = bool(np.isfinite(np.float32(views.label)))
        facts.append(f"label {views.label:.6g}" + ("" if is_finite else ", not finite as float32"))
    return ", ".join(facts)
