"""The loss, the scores and the gradient of a step by example, from the state before it.

They come from the model and the loss function of the training, in
programs of their own: the program of the step stays the one that trained, to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.checkpoint.tree import to_arrays
from clac_jax.crystals.crystal import Crystal
from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.labels import label_of
from clac_jax.input_pipeline.views import DrawnText
from clac_jax.replay.replayer import Replayer
from clac_jax.replay.setting import Setting
from clac_jax.tasks.task import ExampleFacts, Task
from clac_jax.training.gradients import GradientFunction
from clac_jax.training.state import TrainState
from clac_jax.training.step import AXIS, make_gradients

LARGEST = 10
"""Elements of the gradient that are listed."""


@dataclass(frozen=True)
class Displacement:
    """A crystal view, compared with the crystal of the data set.

    Attributes:
        largest: largest distance that an atom was moved by, angstrom.
        strain: (3, 3) the deformation of the cell minus the identity.
    """

    largest: float
    strain: np.ndarray

    @property
    def words(self) -> str:
        """The view in words."""
        if np.abs(self.strain).max() > 1e-9:
            return "strained by " + ", ".join(f"{100 * x:+.2f} %" for x in _main(self.strain))
        if self.largest > 0:
            return f"atoms moved by up to {self.largest:.3f} angstrom"
        return "as in the data set"


@dataclass(frozen=True)
class Example:
    """One example of a step.

    Attributes:
        index: its number in the training split.
        name: its id in the data set.
        formula: its formula.
        batch: number of its contrastive batch within the step.
        slot: its place in that batch, which is its row and column of the scores; the slots of
            examples that are left out are empty.
        atoms: number of its atoms.
        crystals: its crystal views.
        texts: its text views.
        terms: name -> its part of a term of the loss.
        finite: whether everything that the model computes only from it is.
        own_score: score of its text with its crystal; None if nothing is contrasted.
        rank: number of crystals that its text scores higher; None as well.
        rival: id of the crystal with the highest score among the others, and that score.
        predicted: the prediction of a property, and its label.
    """

    index: int
    name: str
    formula: str
    batch: int
    slot: int
    atoms: int
    crystals: tuple[Displacement, ...]
    texts: tuple[DrawnText, ...]
    terms: dict[str, float]
    finite: bool
    own_score: float | None = None
    rank: int | None = None
    rival: tuple[str, float] | None = None
    predicted: tuple[float, float] | None = None

    @property
    def loss(self) -> float:
        """Its part of the loss."""
        return self.terms["loss"]


@dataclass(frozen=True)
class Examination:
    """A step, looked into before it is done.

    Attributes:
        step: its number.
        examples: its examples, in order.
        similarity: (batches, slots, slots) score of each text (row) with each crystal; None if
            nothing is contrasted.
        gradients: slash path -> gradient of a parameter, before clipping.
        gradient_norms: part of the model -> norm of its gradient.
        largest: (path, index, value) of the largest elements of the gradient; those that are not
            finite come first.
    """

    step: int
    examples: list[Example]
    similarity: np.ndarray | None
    gradients: dict[str, np.ndarray]
    gradient_norms: dict[str, float]
    largest: list[tuple[str, tuple[int, ...], float]]


def examine(replayer: Replayer, batch: Batch) -> Examination:
    """Looks into the next step.

    Args:
        replayer: at the position before the step.
        batch: the batch of the step.
    """
    setting, progress = replayer.setting, replayer.progress
    parts = setting.parts
    facts = parts.parallel.to_host(
        parts.parallel.evaluate(make_examination(parts.task, parts.trainable))(
            replayer.state, batch
        )
    )
    gradient = parts.parallel.evaluate(make_gradients(parts.trainable, parts.task.loss))
    grads = parts.parallel.to_host(gradient(replayer.state, batch).grads)
    gradients = {f"params/{path}": leaf for path, leaf in to_arrays(grads).items()}
    rows = setting.data.step_examples(progress.epoch, progress.examples_in_epoch)
    return Examination(
        step=progress.step + 1,
        examples=_examples(setting, progress.epoch, rows, facts),
        similarity=facts.similarity,
        gradients=gradients,
        gradient_norms=_norms(gradients),
        largest=largest_elements(gradients),
    )


def make_examination(task: Task, trainable: Any) -> Callable[[TrainState, Batch], ExampleFacts]:
    """A function (state, batch) -> facts of the examples of all devices, for one device.

    Its results have a leading axis of contrastive batches, then the examples in their order.
    """

    def examination(state: TrainState, batch: Batch) -> ExampleFacts:
        key = state.step_key()
        model = GradientFunction(state.apply_fn, task.loss, trainable, AXIS)

        def one(inputs: tuple[Batch, jax.Array]) -> ExampleFacts:
            micro_batch, number = inputs
            micro_key = jax.random.fold_in(key, number)
            output, full = model.forward(state.params, state.batch_stats, micro_batch, micro_key)
            facts = task.by_example(output, full, axis_name=AXIS, key=micro_key)
            gathered: ExampleFacts = jax.lax.all_gather(facts, AXIS, tiled=True)
            return gathered

        numbers = jnp.arange(batch.example_mask.shape[0])
        results: ExampleFacts = jax.lax.map(one, (batch, numbers))
        return results

    return examination


def largest_elements(
    arrays: dict[str, np.ndarray], count: int = LARGEST
) -> list[tuple[str, tuple[int, ...], float]]:
    """(path, index, value) of the elements of largest magnitude; not finite ones come first."""
    found = []
    for path, array in arrays.items():
        size = np.abs(array.astype(np.float64)).ravel()
        size[~np.isfinite(size)] = np.inf
        for place in np.argsort(-size, kind="stable")[:count]:
            index = tuple(int(k) for k in np.unravel_index(place, array.shape))
            found.append((float(size[place]), path, index, float(array[index])))
    found.sort(key=lambda each: -each[0])
    return [(path, index, value) for _, path, index, value in found[:count]]


def _examples(setting: Setting, epoch: int, rows: np.ndarray, facts: ExampleFacts) -> list[Example]:
    records, left_out = setting.data.splits["train"], setting.data.left_out(epoch)
    examples = []
    for batch, row in enumerate(rows):
        names = [records[int(index)].material_id for index in row]
        present = np.array([int(index) not in left_out for index in row])
        for place, index in enumerate(row):
            if not present[place]:  # its place in the batch is empty
                continue
            drawn = setting.data.drawn(epoch, int(index))
            record = records[int(index)]
            terms = {name: float(values[batch, place]) for name, values in facts.terms.items()}
            others: dict[str, Any] = {}
            if facts.similarity is not None:
                others = _scores(np.asarray(facts.similarity[batch][place]), place, names, present)
            if facts.predicted is not None:
                label = label_of(record, setting.config.property.name) or 0.0
                others = {"predicted": (float(facts.predicted[batch, place]), label)}
            example = Example(
                index=int(index),
                name=record.material_id,
                formula=record.formula,
                batch=batch,
                slot=place,
                atoms=drawn.original.num_atoms,
                crystals=tuple(_displacement(drawn.original, view) for view in drawn.crystals),
                texts=drawn.texts,
                terms=terms,
                finite=bool(facts.finite[batch, place]),
                **others,
            )
            examples.append(example)
    return examples


def _scores(scores: np.ndarray, own: int, names: list[str], present: np.ndarray) -> dict[str, Any]:
    others = np.where(present, np.array(scores, np.float64), -np.inf)
    others[own] = -np.inf
    rank = int((others >= scores[own]).sum())
    found: dict[str, Any] = {"own_score": float(scores[own]), "rank": rank}
    if present.sum() > 1:
        rival = int(np.argmax(others))
        found["rival"] = (names[rival], float(others[rival]))
    return found


def _displacement(original: Crystal, view: Crystal) -> Displacement:
    deformation = np.linalg.solve(original.lattice, view.lattice)
    moved = view.positions - original.positions @ deformation
    return Displacement(
        largest=float(np.linalg.norm(moved, axis=1).max(initial=0.0)),
        strain=deformation - np.eye(3),
    )


def _main(strain: np.ndarray) -> list[float]:
    """The entries on the diagonal, or the three others of a shear."""
    diagonal = np.diag(strain)
    if np.abs(diagonal).max() > 1e-9:
        return [float(x) for x in diagonal]
    return [float(strain[0, 1]), float(strain[1, 2]), float(strain[0, 2])]


def _norms(gradients: dict[str, np.ndarray]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for path, array in gradients.items():
        part = path.split("/")[1]
        flat = array.astype(np.float64).ravel()
        squares[part] = squares.get(part, 0.0) + float(flat @ flat)
    return {part: float(np.sqrt(total)) for part, total in squares.items()}
