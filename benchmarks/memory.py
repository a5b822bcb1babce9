"""Memory and time of a training step that stores fewer activations for the backward pass.

The step of `benchmarks/comparison.py`, its batch repeated to larger ones: plain, with
rematerialization of both encoders (`config.remat`), encoded in chunks (`gradient_cache_chunks`),
and with both. The memory is XLA's own count of the step's temporary buffers; parameters, optimizer
state and batch are not included. Prints a table and writes it with the facts about the machine.

    python -m benchmarks.memory [--repeats=2] [--sizes 16 32 64] [--timed=32] [--output=...json]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.common import RESULTS, SHARED_CORES, write_results
from benchmarks.comparison import (
    comparison_config,
    compile_step,
    describe,
    load_examples,
    packed,
)
from clac_jax.models import build_model, init_variables

TOWERS = ("graph_encoder", "text_encoder")
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "remat": {"remat": TOWERS},
    "4 chunks": {"gradient_cache_chunks": 4},
    "4 chunks, remat": {"gradient_cache_chunks": 4, "remat": TOWERS},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--timed", type=int, default=32, help="larger batches are only compiled")
    parser.add_argument("--output", type=Path, default=RESULTS / "memory.json")
    options = parser.parse_args()

    examples = load_examples()
    config = comparison_config()
    batch, _ = packed(examples, len(examples), 1, config.text_encoder.max_length)
    variables = init_variables(build_model(config), config, batch)
    rows = []
    print(f"{'batch':>5}  {'':16}{'temporary GiB':>14}{'min s':>8}{'CPU s':>8}{'compile s':>11}")
    for num_examples in options.sizes:
        for name, changes in WAYS.items():
            config = comparison_config()
            config.update(changes)
            chunks = config.gradient_cache_chunks
            batch, shape = packed(examples, num_examples, chunks, config.text_encoder.max_length)
            compiled = compile_step(
                build_model(config), config, batch, jax.tree.map(jnp.copy, variables)
            )
            memory = compiled.call.memory_analysis()
            row = {
                "batch_size": num_examples,
                "way": name,
                "config": changes,
                "temporary_gib": memory.temp_size_in_bytes / 2**30,
                "arguments_gib": memory.argument_size_in_bytes / 2**30,
                "compile_s": compiled.compile_s,
                "slots": {
                    key: chunks * value
                    for key, value in describe(shape, []).items()
                    if key.endswith("_slots")
                },
            }
            times = " " * 16
            if num_examples <= options.timed:
                row["step"] = compiled.time(options.repeats)
                times = f"{row['step']['min_s']:8.2f}{row['step']['cpu_s']:8.1f}"
            rows.append(row)
            del compiled
            memory_gib = f"{row['temporary_gib']:14.2f}"
            print(
                f"{num_examples:5}  {name:16}{memory_gib}{times}{row['compile_s']:11.0f}",
                flush=True,
            )
    result = {
        "note": SHARED_CORES,
        "repeats": options.repeats,
        "steps": rows,
    }
    write_results(options.output, result)


if __name__ == "__main__":
    main()
