"""Training throughput by precision, text encoder and batch size, up to the largest that fits.

    python -m benchmarks.throughput [--texts minilm bert_base] [--precisions float32 bfloat16]
        [--sizes 16 32 ...] [--repeats=5] [--output=benchmarks/results/throughput.json]

The step of `benchmarks/comparison.py`, its stored batch repeated to larger ones; "bert_base" is a
text encoder of SciBERT's size with random weights. Each case runs in a separate process, because
one that does not fit leaves the device unusable; larger batches of that combination are not tried.
Matrix products are counted as the program executes them, padding included, and compared with the
rate of one large product in the same precision on the same device.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import ml_collections

from benchmarks.common import RESULTS, ROOT, large_product_rate, write_results
from benchmarks.comparison import (
    TEXTS,
    comparison_config,
    compile_step,
    load_examples,
    packed,
    step_operations,
)
from clac_jax.models import build_model, init_variables

SIZES = (16, 32, 64, 128, 256, 512, 1024)


def case_config(text: str, precision: str) -> ml_collections.ConfigDict:
    """The comparison config with this text encoder and precision."""
    config = comparison_config(text)
    config.precision = precision
    return config


def measure(config: ml_collections.ConfigDict, size: int, repeats: int) -> dict[str, Any]:
    """Time, memory and matrix products of one step on this process's first device."""
    batch, _ = packed(load_examples(), size, 1, config.text_encoder.max_length)
    model = build_model(config)
    variables = init_variables(model, config, batch)
    operations = step_operations(model, config, batch, variables)
    compiled = compile_step(model, config, batch, variables)
    analysis = compiled.call.memory_analysis()
    seconds = compiled.time(repeats)
    in_use = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    planned = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes
    reached = large_product_rate(config.precision)
    return {
        "examples": size,
        **seconds,
        "examples_per_s": size / seconds["min_s"],
        "tflop": operations / 1e12,
        "tflop_per_s": operations / seconds["min_s"] / 1e12,
        "share_of_large_product": operations / seconds["min_s"] / reached,
        "large_product_tflop_per_s": reached / 1e12,
        "memory_gib": (in_use or planned) / 2**30,
        "xla_tflop": None if compiled.flops is None else compiled.flops / 1e12,
        "compile_s": compiled.compile_s,
    }


def in_own_process(text: str, precision: str, size: int, repeats: int) -> dict[str, Any] | None:
    """The measurements of the case, or None if it does not fit in memory."""
    case = [text, precision, str(size), str(repeats)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.throughput", "--case", *case],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    if "RESOURCE_EXHAUSTED" in done.stderr or done.returncode == -9:
        return None
    sys.exit(f"The case {' '.join(case)} failed:\n{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", nargs="+", choices=TEXTS, default=["minilm", "bert_base"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--case", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, default=RESULTS / "throughput.json")
    options = parser.parse_args()
    if options.case:
        text, precision, size, repeats = options.case
        row = measure(case_config(text, precision), int(size), int(repeats))
        print(json.dumps({"text": text, "precision": precision, **row}))
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
    write_results(options.output, {"repeats": options.repeats, "cases": rows})


if __name__ == "__main__":
    main()
