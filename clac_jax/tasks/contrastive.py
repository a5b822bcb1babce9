"""Contrastive pretraining: crystals and texts in one joint space, evaluated by retrieval."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import ml_collections

from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models import CLaC, build_model, init_variables
from clac_jax.models.clac import ClacOutput
from clac_jax.reporting.figures import write_report
from clac_jax.tasks.retrieval import Evaluator
from clac_jax.tasks.task import ExampleFacts, Measures, Report, Row, Task
from clac_jax.training.losses import example_terms, loss_options, make_loss
from clac_jax.training.parallel import Parallel
from clac_jax.training.state import TrainState


class Contrastive(Task):
    """Contrasts each crystal with all texts of a batch, and each text with all crystals."""

    model: CLaC
    # Every train row has all terms; a contrast that is switched off contributes 0.
    absent_terms: ClassVar[Mapping[str, float]] = {"visual_loss": 0.0, "textual_loss": 0.0}

    def __init__(self, config: ml_collections.ConfigDict, data: RunData, parallel: Parallel):
        """Builds the model.

        Raises:
            ModelError, PretrainedError: see `build_model`.
        """
        self._config = config
        self._data = data
        options = self._options = loss_options(config)
        self._loss = make_loss(options)
        self.model = build_model(config, data.vocab_size)
        self._evaluate = Evaluator(self.model, options, parallel)

    def initialize(self, example: Batch) -> dict[str, Any]:
        """Random weights, except for pretrained encoders."""
        return init_variables(self.model, self._config, example)

    def loss(
        self,
        output: Any,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: jax.Array | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """See `clac_jax.training.losses.clac_loss`."""
        return self._loss(output, batch, axis_name=axis_name, key=key)

    def by_example(
        self,
        output: ClacOutput,
        batch: Batch,
        *,
        axis_name: str | None = None,
        key: jax.Array | None = None,
    ) -> ExampleFacts:
        """See `Task.by_example`; `lm_loss`, a mean over tokens, is missing."""
        crystals, texts = output.graph_projections, output.text_projections
        columns = crystals[0]
        if axis_name is not None:
            columns = jax.lax.all_gather(columns, axis_name, tiled=True)
        finite = [jnp.all(jnp.isfinite(x), axis=(0, 2)) for x in (crystals, texts)]
        mask = batch.example_mask
        return ExampleFacts(
            terms=example_terms(output, mask, self._options, axis_name=axis_name, key=key),
            finite=finite[0] & finite[1],
            similarity=output.cross.scores(columns, texts[0]).T,
        )

    def validate(self, state: TrainState, batches: Iterable[Batch]) -> Measures:
        """Loss and accuracies within the batch, and retrieval over the entire pool."""
        evaluation = self._evaluate(state, batches)
        return {
            **_renamed(evaluation.metrics, "val_loss"),
            "pool_size": len(evaluation.similarity),
        }

    def test(self, state: TrainState) -> tuple[Measures, Report]:
        """Evaluates the test split as `validate` does, plus retrieval by texts without formulas."""
        evaluation = self._evaluate(state, self._data.eval_batches("test"))
        plain = self._data.eval_batches("test", replace_formula=True)
        no_formula = self._evaluate(state, plain, suffix="_no_formula").metrics
        measures = {
            **_renamed(evaluation.metrics, "test_loss"),
            **{name: value for name, value in no_formula.items() if name.endswith("_no_formula")},
            "pool_size": len(evaluation.similarity),
        }
        return measures, functools.partial(write_report, similarity=evaluation.similarity)

    def describe_validation(self, row: Row) -> str:
        """The loss and text-to-crystal retrieval accuracies, in one line."""
        return (
            f"val_loss {row['val_loss']:.3f}  in batch top-1 {row['val_acc_top1']:.1%}  among "
            f"{row['pool_size']} crystals: text->crystal top-1 {row['text_to_crystal_top1']:.1%}, "
            f"top-10 {row['text_to_crystal_top10']:.1%}"
        )

    def describe_test(self, row: Row) -> str:
        """A table of retrieval accuracies."""
        lines = [
            f"test      {row['pool_size']} unseen crystals, "
            f"checkpoint of step {row['checkpoint_step']}",
            f"            {'':<28}{'top-1':>8}{'top-3':>8}{'top-10':>8}",
        ]
        for direction in ("text_to_crystal", "crystal_to_text"):
            for suffix, words in (("", ""), ("_no_formula", ", no formula")):
                name = direction.replace("_to_", " -> ") + words
                accuracies = (row[f"{direction}_top{k}{suffix}"] for k in (1, 3, 10))
                lines.append(f"            {name:<28}" + "".join(f"{a:>8.1%}" for a in accuracies))
        return "\n".join(lines)


def _renamed(metrics: dict[str, float], loss: str) -> dict[str, float]:
    """The metrics under their metrics.jsonl names; `loss` is the name to give the loss."""
    names = {"loss": loss, "acc_top1": "val_acc_top1", "acc_top3": "val_acc_top3"}
    return {names.get(name, name): value for name, value in metrics.items()}
