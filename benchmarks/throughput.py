"""How fast a device trains, by precision, text tower and batch, to the largest that fits.

    python -m benchmarks.throughput [--texts minilm bert_base] [--precisions float32 bfloat16]
        [--sizes 16 32 ...] [--repeats=5] [--output=benchmarks/results/throughput.json]

The step of `benchmarks/step.py` (PaiNN 512 x 5, two views of both, AdamW), its stored batch
repeated to larger ones; "bert_base" has the text tower of SciBERT's size, at random. Each case is a
process of its own, since one that does not fit takes the device with it; a combination ends there.
Matrix products are counted as the program does them, padding included, and compared to the rate of
one large product in the same precision on the same device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import ml_collections

from benchmarks.memory import packed
from benchmarks.step import (
    HERE,
    comparison_config,
    compile_step,
    load_examples,
    machine_facts,
    time_step,
    timed,
)
from clac_jax.models import build_model, init_variables
from clac_jax.training.gradients import GradientFunction
from clac_jax.training.losses import make_loss
from clac_jax.training.optim import trainable_mask

TEXTS: dict[str, dict[str, Any]] = {
    "minilm": {},
    "bert_base": {
        "text_encoder.pretrained": None,
        "text_encoder.config.hidden_size": 768,
        "text_encoder.config.num_hidden_layers": 12,
        "text_encoder.config.num_attention_heads": 12,
        "text_encoder.config.intermediate_size": 3072,
    },
}
SIZES = (16, 32, 64, 128, 256, 512, 1024)
LARGE_PRODUCT = {"cpu": 2048}  # rows of the square matrices; others 8192


def case_config(text: str, precision: str) -> ml_collections.ConfigDict:
    """The comparison run with another text tower and precision."""
    config = comparison_config()
    config.update_from_flattened_dict(TEXTS[text])
    config.precision = precision
    return config


def measure(text: str, precision: str, size: int, repeats: int) -> dict[str, Any]:
    """One step's time, memory and matrix products on this process's first device."""
    config = case_config(text, precision)
    batch, _ = packed(load_examples(), size, 1, config.text_encoder.max_length)
    model = build_model(config)
    variables = init_variables(model, config, batch)
    operations = step_operations(model, config, batch, variables)
    *compiled, compile_s = compile_step(model, config, batch, variables)
    analysis = compiled[0].memory_analysis()
    seconds = time_step(*compiled, repeats=repeats)
    in_use = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    planned = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    reached = large_product_rate(precision)
    return {
        "text": text,
        "precision": precision,
        "examples": size,
        **seconds,
        "examples_per_s": size / seconds["min_s"],
        "tflop": operations / 1e12,
        "tflop_per_s": operations / seconds["min_s"] / 1e12,
        "share_of_large_product": operations / seconds["min_s"] / reached,
        "large_product_tflop_per_s": reached / 1e12,
        "memory_gib": (in_use or planned) / 2**30,
        "compile_s": compile_s,
    }


def step_operations(model: Any, config: Any, batch: Any, variables: dict[str, Any]) -> int:
    """Floating-point operations in the matrix products of loss and gradient."""
    params, stats = variables["params"], variables["batch_stats"]
    gradient = GradientFunction(
        model.apply, make_loss(), trainable_mask(params, config.frozen), axis_name=None
    )
    return operations_of(jax.make_jaxpr(gradient)(params, stats, batch, jax.random.key(0)).jaxpr)


def operations_of(jaxpr: jex.Jaxpr) -> int:
    """Two for each multiplication in a matrix product; a scan's as often as it runs."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * prod(equation.outvars[0].aval.shape) * prod(left[k] for k in contracted)
        inner = [operations_of(x) for x in _inner(equation.params)]
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        # Of a branch, one side is taken.
        total += max(inner, default=0) if equation.primitive.name == "cond" else times * sum(inner)
    return total


def _inner(params: dict[str, Any]) -> list[jex.Jaxpr]:
    values = [x for p in params.values() for x in (p if isinstance(p, tuple) else (p,))]
    closed = [x.jaxpr if isinstance(x, jex.ClosedJaxpr) else x for x in values]
    return [x for x in closed if isinstance(x, jex.Jaxpr)]


def large_product_rate(precision: str) -> float:
    """Operations a second that one large matrix product reaches."""
    rows = LARGE_PRODUCT.get(jax.default_backend(), 8192)
    matrix = jnp.ones((rows, rows), precision)
    seconds = timed(jax.jit(jnp.matmul), matrix, matrix, repeats=5)
    return 2 * rows**3 / seconds["min_s"]


def in_own_process(text: str, precision: str, size: int, repeats: int) -> dict[str, Any] | None:
    """The case's measurements, or None where it does not fit."""
    case = [text, precision, str(size), str(repeats)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput", "--case", *case],
        capture_output=True,
        text=True,
        cwd=HERE.parent,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "RESOURCE_EXHAUSTED" in done.stderr or done.returncode == -9:
        return None
    sys.exit(f"The case {' '.join(case)} failed:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=list(TEXTS))
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "throughput.json")
    options = parser.parse_args()
    if options.case:
        text, precision, size, repeats = options.case
        print(json.dumps(measure(text, precision, int(size), int(repeats))))
        return
    rows: list[dict[str, Any]] = []
    print("| text | precision | batch | examples/s | TFLOP/s | of a product | GiB | compile s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for text in options.texts:
        for precision in options.precisions:
            for size in options.sizes:
                row = in_own_process(text, precision, size, options.repeats)
                if row is None:
                    print(f"| {text} | {precision} | {size} | does not fit |", flush=True)
                    break
                rows.append(row)
                print(
                    f"| {text} | {precision} | {size} | {row['examples_per_s']:.1f} "
                    f"| {row['tflop_per_s']:.2f} | {row['share_of_large_product']:.0%} "
                    f"| {row['memory_gib']:.2f} | {row['compile_s']:.0f} |",
                    flush=True,
                )
    content = {"machine": machine_facts(), "repeats": options.repeats, "cases": rows}
    options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
