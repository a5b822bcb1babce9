"""The step that the benchmarks time: its model, its stored batch, and how it is compiled.

PaiNN with 512 features and 5 interactions, MiniLM, 16 crystals with two views of both modalities,
InfoNCE with both intramodal terms, dropout, gradient clipping, AdamW, float32.
"""

from __future__ import annotations

import dataclasses
import time
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks.common import timed
from clac_jax.config.schema import default_config
from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline.batch import Batch, BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.input_pipeline.sample import Sample
from clac_jax.input_pipeline.shape_plan import ShapePlan
from clac_jax.models import CLaC
from clac_jax.training.gradients import GradientFunction
from clac_jax.training.losses import make_loss
from clac_jax.training.optim import make_optimizer, trainable_mask
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import TrainState, create_train_state
from clac_jax.training.step import make_train_step

BATCH_FILE = Path(__file__).parent / "data" / "painn_minilm_batch.npz"
NUM_EXAMPLES = 16

# Sizes of the text encoders; all but "minilm" have random weights.
TEXTS: dict[str, dict[str, Any]] = {
    "minilm": {"text_encoder.pretrained": "minilm"},
    "minilm_random": {
        "text_encoder.config.hidden_size": 384,
        "text_encoder.config.num_hidden_layers": 6,
        "text_encoder.config.num_attention_heads": 12,
        "text_encoder.config.intermediate_size": 1536,
    },
    "bert_base": {  # the sizes of SciBERT
        "text_encoder.config.hidden_size": 768,
        "text_encoder.config.num_hidden_layers": 12,
        "text_encoder.config.num_attention_heads": 12,
        "text_encoder.config.intermediate_size": 3072,
    },
}


def comparison_config(text: str = "minilm") -> ml_collections.ConfigDict:
    """PaiNN 512 x 5 and a text encoder of `TEXTS` with AdamW; all parameters are trained."""
    config = default_config()
    config.text_encoder.feature = "first"
    config.update_from_flattened_dict(TEXTS[text])
    return config


def load_examples(path: Path = BATCH_FILE, cutoff: float = 5.0) -> list[ExampleViews]:
    """The stored batch as the pipeline produces it: only edges shorter than the cutoff (Å)."""
    with np.load(path) as stored:
        arrays = dict(stored)
    examples = []
    for index in range(NUM_EXAMPLES):
        graphs, tokens = [], []
        for view in (1, 2):
            crystal = arrays[f"g{view}_batch"]
            nodes = np.flatnonzero(crystal == index)
            edges, vectors = arrays[f"g{view}_edge_index"], arrays[f"g{view}_edge_attr"]
            kept = (crystal[edges[0]] == index) & (np.linalg.norm(vectors, axis=1) < cutoff)
            graphs.append(
                CrystalGraph(
                    atomic_numbers=arrays[f"g{view}_z"][nodes],
                    senders=(edges[0, kept] - nodes[0]).astype(np.int32),
                    receivers=(edges[1, kept] - nodes[0]).astype(np.int32),
                    edge_vectors=vectors[kept],
                    lattice=np.eye(3, dtype=np.float32),  # not stored, and PaiNN does not use it
                )
            )
            real = arrays[f"t{view}_attention_mask"][index].astype(bool)
            tokens.append(TokenView(arrays[f"t{view}_input_ids"][index][real]))
        examples.append(ExampleViews(index, tuple(graphs), tuple(tokens)))
    return examples


def plan_for(examples: list[ExampleViews], num_examples: int, max_length: int) -> ShapePlan:
    """The shape plan of a run that has only these examples."""
    atoms = np.array([len(example.graphs[0].atomic_numbers) for example in examples])
    return ShapePlan(Sample.of(examples), num_examples, max_length, atoms)


def packed(
    examples: list[ExampleViews], num_examples: int, chunks: int, max_length: int
) -> tuple[Batch, BatchShape]:
    """The examples repeated to a larger batch, and its shape.

    Args:
        examples: the examples of the stored batch.
        num_examples: number of examples in the larger batch.
        chunks: number of equally shaped chunks to split it into; 1 for no split.
        max_length: maximum length of the texts, in tokens.

    Returns:
        The batch, with a leading axis of chunks if there are several; the shape of a chunk.
    """
    many = [
        dataclasses.replace(examples[index % len(examples)], index=index)
        for index in range(num_examples)
    ]
    size = num_examples // chunks
    parts = [many[first : first + size] for first in range(0, num_examples, size)]
    shape = plan_for(examples, size, max_length).choose(parts)
    batches = [collate(part, shape) for part in parts]
    if chunks == 1:
        return batches[0], shape
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches), shape


@dataclasses.dataclass
class CompiledStep:
    """A compiled training step for one device, with its arguments.

    Attributes:
        call: (state, batch) -> (state, metrics); the state is donated.
        state: the state for the next call.
        batch: the batch, with a leading axis of one micro-batch.
        compile_s: compilation time in seconds.
        flops: floating-point operations per call by XLA's cost analysis of the program before
            optimization, where the body of a loop counts once; None if XLA does not say.
    """

    call: Any
    state: TrainState
    batch: Batch
    compile_s: float
    flops: float | None

    def time(self, repeats: int) -> dict[str, float]:
        """Times the step; each call continues from the state of the previous one."""

        def run() -> dict[str, jax.Array]:
            self.state, metrics = self.call(self.state, self.batch)
            jax.block_until_ready(self.state)
            return metrics

        return timed(run, repeats=repeats)


def compile_step(
    model: CLaC, config: ml_collections.ConfigDict, batch: Batch, variables: dict[str, Any]
) -> CompiledStep:
    """Compiles the training step for one device.

    Args:
        model: the model of the config.
        config: config of the run.
        batch: batch of one device, with or without a leading axis of chunks.
        variables: variables of the model; their memory is donated to the step.
    """
    schedule = make_schedule(config, Timeline(1000, 1000))
    params = variables["params"]
    state = create_train_state(
        model.apply, variables, make_optimizer(config, params, schedule), config.seed
    )
    trainable = trainable_mask(params, config.frozen)
    step = make_train_step(trainable, schedule, make_loss(), axis_name=None)
    micro_batches = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], batch)
    start = time.perf_counter()
    lowered = jax.jit(step, donate_argnums=0).lower(state, micro_batches)
    compiled = lowered.compile()
    seconds = time.perf_counter() - start
    flops = (lowered.cost_analysis() or {}).get("flops")
    return CompiledStep(compiled, state, micro_batches, seconds, flops)


def step_operations(
    model: CLaC, config: ml_collections.ConfigDict, batch: Batch, variables: dict[str, Any]
) -> int:
    """Floating-point operations in the matrix products of loss and gradient."""
    params, stats = variables["params"], variables["batch_stats"]
    gradient = GradientFunction(
        model.apply, make_loss(), trainable_mask(params, config.frozen), axis_name=None
    )
    return operations_of(jax.make_jaxpr(gradient)(params, stats, batch, jax.random.key(0)).jaxpr)


def operations_of(jaxpr: jex.Jaxpr) -> int:
    """Two for each multiplication in a matrix product; a scan counts once per iteration."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * prod(equation.outvars[0].aval.shape) * prod(left[k] for k in contracted)
        inner = [operations_of(x) for x in _inner(equation.params)]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        # Only one branch of a condition runs.
        total += max(inner, default=0) if equation.primitive.name == "cond" else times * sum(inner)
    return total


def _inner(params: dict[str, Any]) -> list[jex.Jaxpr]:
    values = [x for p in params.values() for x in (p if isinstance(p, tuple) else (p,))]
    closed = [x.jaxpr if isinstance(x, jex.ClosedJaxpr) else x for x in values]
    return [x for x in closed if isinstance(x, jex.Jaxpr)]


def describe(shape: BatchShape, examples: list[ExampleViews]) -> dict[str, Any]:
    """The slots of a batch, and how many of them are filled."""
    return {
        "node_tiles": shape.node_tiles,
        "token_tiles": shape.token_tiles,
        "nodes": sum(len(g.atomic_numbers) for e in examples for g in e.graphs),
        "node_slots": shape.num_nodes,
        "edges": sum(len(g.senders) for e in examples for g in e.graphs),
        "edge_slots": shape.num_edges,
        "tokens": sum(len(t.ids) for e in examples for t in e.tokens),
        "token_slots": shape.num_tokens,
    }
