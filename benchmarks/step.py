"""Time of one training step at the paper's graph size, in total and by part.

The step of `benchmarks/comparison.py`, as training runs it. Prints a table and writes it with the
facts about the machine, including those that its speed on a CPU depends on most: the width of the
vector registers and the rate that XLA reaches on one large matrix product.

    python -m benchmarks.step [--repeats=10] [--output=benchmarks/results/step.json]
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from benchmarks.common import (
    RESULTS,
    SHARED_CORES,
    large_product_rate,
    timed,
    vector_bits,
    write_results,
)
from benchmarks.comparison import (
    NUM_EXAMPLES,
    TEXTS,
    comparison_config,
    compile_step,
    describe,
    load_examples,
    packed,
)
from clac_jax.input_pipeline.batch import Batch
from clac_jax.models import CLaC, build_model, init_variables
from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ContrastiveHead
from clac_jax.training.losses import clac_loss
from clac_jax.training.optim import make_optimizer
from clac_jax.training.schedules import Timeline, make_schedule

FLOOR_GFLOP = 340.0  # matrix products of the step on this batch, forward and backward, unpadded


def time_parts(
    model: CLaC, config: Any, batch: Batch, variables: dict[str, Any], repeats: int
) -> dict[str, dict[str, float]]:
    """Times each part of the step, compiled separately."""
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


def measure(
    config: ml_collections.ConfigDict,
    repeats: int,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
) -> dict[str, Any]:
    """Times the step and its parts on this process's first device.

    Args:
        config: config of the run.
        repeats: number of timed calls.
        save: receives the result without the parts, which take longer to compile than the step.
    """
    examples = load_examples()
    batch, shape = packed(examples, NUM_EXAMPLES, 1, config.text_encoder.max_length)
    model = build_model(config)
    variables = init_variables(model, config, batch)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    compiled = compile_step(model, config, batch, jax.tree.map(jnp.copy, variables))
    step = compiled.time(repeats)
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    result = {
        "note": SHARED_CORES,
        "repeats": repeats,
        "parameters": num_parameters,
        "batch": describe(shape, examples),
        "step": step,
        "parts": {},
        "compile_s": compiled.compile_s,
        "peak_memory_gib": peak_gib,
        "floor_gflop": FLOOR_GFLOP,
        "gflop_per_s_of_floor": FLOOR_GFLOP / step["min_s"],
        "large_product_gflop_per_s": large_product_rate() / 1e9,
    }
    save(result)
    return result | {"parts": time_parts(model, config, batch, variables, repeats)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--text", choices=TEXTS, default="minilm", help="sizes of the text encoder")
    parser.add_argument("--output", type=Path, default=RESULTS / "step.json")
    options = parser.parse_args()
    result = measure(comparison_config(options.text), options.repeats)
    print(f"{'':28}{'min ms':>9}{'median ms':>11}{'CPU ms':>9}")
    for name, times in {**result["parts"], "training step": result["step"]}.items():
        row = (times[key] * 1e3 for key in ("min_s", "median_s", "cpu_s"))
        print(f"{name:28}" + "{:9.0f}{:11.0f}{:9.0f}".format(*row))
    width = f"{vector_bits()}-bit" if vector_bits() else "unknown"
    print(
        f"{result['gflop_per_s_of_floor']:.0f} GFLOP/s of the {FLOOR_GFLOP:.0f} GFLOP floor; one "
        f"large product reaches {result['large_product_gflop_per_s']:.0f} GFLOP/s here (vector "
        f"registers: {width}); peak memory {result['peak_memory_gib']:.2f} GiB, compilation "
        f"{result['compile_s']:.0f} s"
    )
    write_results(options.output, {"text_encoder": options.text, **result})


if __name__ == "__main__":
    main()
