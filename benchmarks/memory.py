"""Memory and time of a training step that keeps less for the backward pass.

The step of `benchmarks/step.py` on its stored batch, repeated to larger ones: as it is, with
rematerialisation of both towers (`config.remat`), encoded in chunks (`gradient_cache_chunks`), and
with both. The memory is XLA's own count of the step's temporary buffers, which parameters,
optimizer state and batch come on top of. Prints a table and writes it with the facts of the
machine.

    python -m benchmarks.memory [--repeats=2] [--sizes 16 32 64] [--timed=32] [--output=...json]
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.step import (
    HERE,
    comparison_config,
    compile_step,
    describe,
    load_examples,
    machine_facts,
    plan_for,
    time_step,
)
from clac_jax.input_pipeline.batch import Batch, BatchShape, ExampleViews, collate
from clac_jax.models import build_model, init_variables

TOWERS = ("graph_encoder", "text_encoder")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "remat": {"remat": TOWERS},
    "4 chunks": {"gradient_cache_chunks": 4},
    "4 chunks, remat": {"gradient_cache_chunks": 4, "remat": TOWERS},
}


def packed(
    examples: list[ExampleViews], num_examples: int, chunks: int, max_length: int
) -> tuple[Batch, BatchShape]:
    """The examples over and over, in one piece or in chunks of one shape; and that shape."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--timed", type=int, default=32, help="larger batches are only compiled")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "memory.json")
    options = parser.parse_args()

    examples = load_examples()
    config = comparison_config()
    whole, _ = packed(examples, len(examples), 1, config.text_encoder.max_length)
    variables = init_variables(build_model(config), config, whole)
    rows = []
    print(f"{'batch':>5}  {'':16}{'temporary GiB':>14}{'min s':>8}{'CPU s':>8}{'compile s':>11}")
    for num_examples in options.sizes:
        for name, changes in WAYS.items():
            config = comparison_config()
            config.update(changes)
            chunks = config.gradient_cache_chunks
            batch, shape = packed(examples, num_examples, chunks, config.text_encoder.max_length)
            *compiled, compile_s = compile_step(
                build_model(config), config, batch, jax.tree.map(jnp.copy, variables)
            )
            memory = compiled[0].memory_analysis()
            row = {
                "batch_size": num_examples,
                "way": name,
                "config": changes,
                "temporary_gib": memory.temp_size_in_bytes / 2**30,
                "arguments_gib": memory.argument_size_in_bytes / 2**30,
                "compile_s": compile_s,
                "places": {
                    key: chunks * value
                    for key, value in describe(shape, []).items()
                    if key.endswith("_places")
                },
            }
            times = " " * 16
            if num_examples <= options.timed:
                row["step"] = time_step(*compiled, options.repeats)
                times = f"{row['step']['min_s']:8.2f}{row['step']['cpu_s']:8.1f}"
            del compiled
            rows.append(row)
            memory_gib = f"{row['temporary_gib']:14.2f}"
            print(f"{num_examples:5}  {name:16}{memory_gib}{times}{compile_s:11.0f}", flush=True)
    result = {
        "machine": machine_facts(),
        "note": "minimum and median over repeats; other work may have shared the machine's cores",
        "repeats": options.repeats,
        "steps": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
