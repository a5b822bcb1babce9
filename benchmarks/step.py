"""Time of one training step at the paper's graph size, and where it goes.

PaiNN with 512 features and 5 interactions, MiniLM, 16 crystals with two views of both modalities,
InfoNCE with both intramodal terms, dropout, gradient clip, AdamW, float32; the step is the one that
training runs. Prints a table and writes it with the facts of the machine.

    python benchmarks/step.py [--repeats=10] [--output=benchmarks/results/step.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from clac_jax.config.schema import default_config
from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline.batch import Batch, BatchShape, ExampleViews, TokenView, collate
from clac_jax.input_pipeline.shape_plan import ShapePlan
from clac_jax.models import CLaC, build_model, init_variables
from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ContrastiveHead
from clac_jax.training.losses import clac_loss, make_loss
from clac_jax.training.optim import make_optimizer, trainable_mask
from clac_jax.training.schedules import Timeline, make_schedule
from clac_jax.training.state import TrainState, create_train_state
from clac_jax.training.step import make_train_step

HERE = Path(__file__).parent
BATCH_FILE = HERE / "data" / "painn_minilm_batch.npz"
NUM_EXAMPLES = 16
FLOOR_GFLOP = 340.0  # matrix products of the step on this batch, forward and backward, unpadded
REFERENCE_SECONDS = 22.8  # the PyTorch implementation on two cores of this kind


def comparison_config() -> ml_collections.ConfigDict:
    """PaiNN 512 x 5 and MiniLM with AdamW, everything trained."""
    config = default_config()
    config.text_encoder.pretrained = "minilm"
    config.text_encoder.feature = "first"
    return config


def load_examples(path: Path = BATCH_FILE, cutoff: float = 5.0) -> list[ExampleViews]:
    """The stored batch as the input pipeline hands it over: no edges from the cutoff on."""
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
                    lattice=np.eye(3, dtype=np.float32),  # not stored, and PaiNN does not look
                )
            )
            real = arrays[f"t{view}_attention_mask"][index].astype(bool)
            tokens.append(TokenView(arrays[f"t{view}_input_ids"][index][real]))
        examples.append(ExampleViews(index, tuple(graphs), tuple(tokens)))
    return examples


def plan_for(examples: list[ExampleViews], num_examples: int, max_length: int) -> ShapePlan:
    """The shapes of a run that has these examples alone."""
    atoms = np.array([len(example.graphs[0].atomic_numbers) for example in examples])
    return ShapePlan(examples, num_examples, max_length, atoms)


def timed(function: Callable[..., Any], *args: Any, repeats: int) -> dict[str, float]:
    """Wall and CPU seconds of calls after the first."""
    jax.block_until_ready(function(*args))
    wall, cpu = [], []
    for _ in range(repeats):
        start, cpu_start = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*args))
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return {"min_s": min(wall), "median_s": float(np.median(wall)), "cpu_s": min(cpu)}


def compile_step(
    model: CLaC, config: Any, batch: Batch, variables: dict[str, Any]
) -> tuple[Any, TrainState, Batch, float]:
    """The whole step with a donated state, compiled.

    Args:
        model: of the config.
        config: of the run.
        batch: of one device, in one piece or with an axis of chunks.
        variables: of the model.

    Returns:
        The compiled step, its state and batch, and the seconds of its compilation.
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
    compiled = jax.jit(step, donate_argnums=0).lower(state, micro_batches).compile()
    return compiled, state, micro_batches, time.perf_counter() - start


def time_step(
    compiled: Any, state: TrainState, micro_batches: Batch, repeats: int
) -> dict[str, float]:
    """Times a compiled step; each call goes on from the state of the one before."""
    holder: list[TrainState] = [state]

    def run() -> dict[str, jax.Array]:
        holder[0], metrics = compiled(holder[0], micro_batches)
        jax.block_until_ready(holder[0])
        return metrics

    return timed(run, repeats=repeats)


def time_parts(
    model: CLaC, config: Any, batch: Batch, variables: dict[str, Any], repeats: int
) -> dict[str, dict[str, float]]:
    """Times each part of the step compiled by itself."""
    batch = jax.tree.map(jnp.asarray, batch)
    params = variables["params"]
    rng = np.random.default_rng(0)

    def graph(params: Any, batch: Batch) -> jax.Array:
        return model.apply({"params": params}, batch.graphs, method=_encode_graphs)

    def text(params: Any, batch: Batch) -> jax.Array:
        return model.apply({"params": params}, batch, jax.random.key(0), method=_encode_texts)

    def heads(params: Any, graphs: jax.Array, texts: jax.Array) -> jax.Array:
        pairs = {}
        sides = {
            "cross": (graphs, texts),
            "visual": (graphs[:1], graphs[1:]),
            "textual": (texts[:1], texts[1:]),
        }
        for name, (left, right) in sides.items():
            head = ContrastiveHead(config.projection_dim, config.logit_scale_init)
            variables_ = {
                "params": params[f"{name}_head"],
                "batch_stats": variables["batch_stats"][f"{name}_head"],
            }
            pairs[name], _ = head.apply(
                variables_, left, right, batch.example_mask, train=True, mutable=["batch_stats"]
            )
        return clac_loss(ClacOutput(**pairs), batch.example_mask)[0]

    def gradient_of(encode: Callable[..., jax.Array], width: int) -> Callable[..., Any]:
        weights = jnp.asarray(rng.normal(size=(2 * NUM_EXAMPLES, width)).astype(np.float32))
        return jax.jit(jax.grad(lambda params, batch: jnp.sum(encode(params, batch) * weights)))

    optimizer = make_optimizer(config, params, make_schedule(config, Timeline(1000, 1000)))
    opt_state = optimizer.init(params)
    features = [
        jnp.asarray(rng.normal(size=(2, NUM_EXAMPLES, width)).astype(np.float32))
        for width in (config.graph_encoder.out_dim, model.text_encoder.settings.hidden_size)
    ]
    parts = {
        "graph forward": (jax.jit(graph), params, batch),
        "graph forward + backward": (gradient_of(graph, features[0].shape[-1]), params, batch),
        "text forward": (jax.jit(text), params, batch),
        "text forward + backward": (gradient_of(text, features[1].shape[-1]), params, batch),
        "heads and loss": (jax.jit(jax.grad(heads, argnums=(0, 1, 2))), params, *features),
        "optimizer": (jax.jit(optimizer.update), params, opt_state, params),
    }
    return {name: timed(*call, repeats=repeats) for name, call in parts.items()}


def _encode_graphs(model: CLaC, graphs: Any) -> jax.Array:
    return model.graph_encoder(graphs, train=True)


def _encode_texts(model: CLaC, batch: Batch, key: jax.Array) -> jax.Array:
    return model.encode_texts(batch, key=key).features


def machine_facts() -> dict[str, Any]:
    """What a time depends on; no names of hosts."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "backend": jax.default_backend(),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        # Above the number of cores, other work slowed this down: only the CPU seconds mean much.
        "load_average_1_min": os.getloadavg()[0],
    }


def describe(shape: BatchShape, examples: list[ExampleViews]) -> dict[str, Any]:
    """The places of a batch and how many hold something."""
    return {
        "node_tiles": shape.node_tiles,
        "token_tiles": shape.token_tiles,
        "nodes": sum(len(g.atomic_numbers) for e in examples for g in e.graphs),
        "node_places": shape.num_nodes,
        "edges": sum(len(g.senders) for e in examples for g in e.graphs),
        "edge_places": shape.num_edges,
        "tokens": sum(len(t.ids) for e in examples for t in e.tokens),
        "token_places": shape.num_tokens,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "step.json")
    options = parser.parse_args()

    config = comparison_config()
    examples = load_examples()
    plan = plan_for(examples, NUM_EXAMPLES, config.text_encoder.max_length)
    shape = plan.choose([examples])
    batch = collate(examples, shape)
    model = build_model(config)
    variables = init_variables(model, config, batch)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    *compiled, compile_s = compile_step(model, config, batch, jax.tree.map(jnp.copy, variables))
    step = time_step(*compiled, options.repeats)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    parts = time_parts(model, config, batch, variables, options.repeats)

    print(f"{'':28}{'min ms':>9}{'median ms':>11}{'CPU ms':>9}")
    for name, times in {**parts, "whole step": step}.items():
        row = (times[key] * 1e3 for key in ("min_s", "median_s", "cpu_s"))
        print(f"{name:28}" + "{:9.0f}{:11.0f}{:9.0f}".format(*row))
    rate = FLOOR_GFLOP / step["min_s"]
    print(
        f"{rate:.0f} GFLOP/s of the {FLOOR_GFLOP:.0f} GFLOP floor, "
        f"{REFERENCE_SECONDS / step['min_s']:.1f} times the PyTorch reference's speed, "
        f"peak memory {peak_gib:.2f} GiB, compilation {compile_s:.0f} s"
    )
    result = {
        "machine": machine_facts(),
        "note": "minimum and median over repeats; other work may have shared the machine's cores",
        "repeats": options.repeats,
        "parameters": num_parameters,
        "batch": describe(shape, examples),
        "step": step,
        "parts": parts,
        "compile_s": compile_s,
        "peak_memory_gib": peak_gib,
        "floor_gflop": FLOOR_GFLOP,
        "gflop_per_s_of_floor": rate,
        "pytorch_reference_s": REFERENCE_SECONDS,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
