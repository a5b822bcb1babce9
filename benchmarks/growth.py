"""Growth of time with the batch, the crystals (to 800 atoms) and the data (to 126,000 rows).

    python -m benchmarks.growth [batch] [crystal] [data] [--output=benchmarks/results/growth.json]

Batch: a training step of the base run. Crystal: forward and backward of the paper's graph encoder,
and neighbour lists, for supercells of rock salt. Data: the embedded crystals, repeated twenty times
in one file: time to prepare it, to start a run, and to the first batch from mid-epoch.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rdkit import Chem

from benchmarks.common import RESULTS, machine_facts, timed
from benchmarks.comparison import comparison_config, compile_step, plan_for
from clac_jax import datasets
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.graph import build_graph
from clac_jax.input_pipeline.batch import collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models import build_model, init_variables
from clac_jax.models.encoders import build_graph_encoder, encoder_needs
from configs import base

BATCH_SIZES = (16, 32, 64, 128, 256)
REPEATS_OF_ROCK_SALT = ((1, 1, 1), (2, 1, 1), (2, 2, 2), (3, 2, 2), (3, 3, 2), (5, 5, 1), (5, 5, 4))
NUM_CRYSTALS = 8
DATA_SIZES = (6_317, 126_340)


def by_batch() -> list[dict[str, Any]]:
    """Seconds of a training step of the base run at each batch size."""
    rows = []
    for size in BATCH_SIZES:
        config = base.get_config()
        config.batch_size = size
        config.frozen = ()
        data = RunData(config, encoder_needs(config))
        batch = jax.tree.map(lambda leaf: leaf[0, 0], next(data.train_batches(0, 0)))
        model = build_model(config, data.vocab_size)
        variables = init_variables(model, config, batch)
        seconds = compile_step(model, config, batch, variables).time(repeats=3)
        rows.append(
            {
                "examples": size,
                "atoms": int((batch.graphs.atomic_numbers > 0).sum()),
                "tokens": int(batch.texts.lengths.sum()),
                **seconds,
                "examples_per_s": size / seconds["min_s"],
            }
        )
        print(rows[-1], flush=True)
    return rows


def by_crystal() -> list[dict[str, Any]]:
    """Seconds of PaiNN 512 x 5 and of neighbour lists at each size of crystal."""
    config = comparison_config()
    encoder = build_graph_encoder(config)
    rows = []
    for repeats in REPEATS_OF_ROCK_SALT:
        crystal = rock_salt(repeats)
        graph = build_graph(crystal, encoder_needs(config).cutoff)
        text = TokenView(np.ones(2, np.int32))
        examples = [ExampleViews(k, (graph,), (text,)) for k in range(NUM_CRYSTALS)]
        batch = collate(examples, plan_for(examples, NUM_CRYSTALS, 8).choose([examples]))
        graphs = jax.tree.map(jnp.asarray, batch.graphs)
        params = jax.jit(encoder.init)(jax.random.key(0), graphs)["params"]
        gradient = jax.jit(
            jax.grad(lambda p, g: jnp.sum(encoder.apply({"params": p}, g) ** 2), argnums=0)
        )
        seconds = timed(gradient, params, graphs, repeats=3)
        atoms = len(crystal.atomic_numbers)
        rows.append(
            {
                "atoms": atoms,
                "edges": len(graph.senders),
                **seconds,
                "ms_per_atom": 1e3 * seconds["min_s"] / (NUM_CRYSTALS * atoms),
                "graphs_per_s": rate(lambda crystal=crystal: build_graph(crystal, 6.0)),
            }
        )
        print(rows[-1], flush=True)
    return rows


def rock_salt(repeats: tuple[int, int, int]) -> Crystal:
    """A supercell of NaCl: conventional cells (8 atoms, 5.64 angstrom) along each axis."""
    half = np.array([[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2
    cell = np.concatenate([half, half + np.array([0.5, 0, 0])]) % 1
    shifts = np.stack(np.meshgrid(*map(np.arange, repeats), indexing="ij"), -1).reshape(-1, 1, 3)
    positions = (cell + shifts).reshape(-1, 3) * 5.64
    return Crystal(
        lattice=np.diag(np.array(repeats) * 5.64),
        atomic_numbers=np.tile(np.repeat([11, 17], 4), len(shifts)),
        positions=positions,
    )


def rate(call: Callable[[], object]) -> float:
    """Calls per second, measured over half a second."""
    call()
    number, start = 0, time.perf_counter()
    while time.perf_counter() - start < 0.5:
        call()
        number += 1
    return number / (time.perf_counter() - start)


def by_data() -> list[dict[str, Any]]:
    """Seconds from a file of each size to a batch, and the peak memory of the process."""
    table = users_table()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in DATA_SIZES:
            copies = size // table.num_rows
            ids = pa.array([f"copy-{k}" for k in range(size)])
            many = pa.concat_tables([table] * copies).append_column("material_id", ids)
            path = Path(folder) / f"crystals_{size}.parquet"
            pq.write_table(many, path)
            config = base.get_config()
            config.dataset.name = "gpt_narratives"
            config.dataset.path, config.dataset.data_dir = str(path), folder
            seconds = {}
            for name in ("prepare", "start"):
                started = time.perf_counter()
                data = RunData(config, encoder_needs(config))
                seconds[f"{name}_s"] = time.perf_counter() - started
            started = time.perf_counter()
            next(data.train_batches(1, data.split_sizes["train"] // 2))
            seconds["first_batch_s"] = time.perf_counter() - started
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
            rows.append({"crystals": size, **seconds, "peak_memory_gib": peak})
            print(rows[-1], flush=True)
    return rows


def users_table() -> pa.Table:
    """The embedded crystals in the columns of a user's file, without their ids."""
    symbol = Chem.GetPeriodicTable().GetElementSymbol
    source = Path(datasets.__file__).parent / "materials_project_mini"
    table = pq.read_table(next(source.glob("*.parquet")))
    atoms = [
        json.dumps(
            {
                "lattice_mat": np.reshape(row["lattice"], (3, 3)).tolist(),
                "elements": [symbol(number) for number in row["atomic_numbers"]],
                "coords": np.reshape(row["frac_coords"], (-1, 3)).tolist(),
                "cartesian": False,
            }
        )
        for row in table.select(["lattice", "atomic_numbers", "frac_coords"]).to_pylist()
    ]
    texts = table.select(["formula", "gpt_text", "gpt_explanation"])
    return texts.append_column("atoms", pa.array(atoms))


# The data come first, because the reported memory is the peak of the process so far.
PARTS: dict[str, Callable[[], list[dict[str, Any]]]] = {
    "data": by_data,
    "batch": by_batch,
    "crystal": by_crystal,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all by default")
    parser.add_argument("--output", type=Path, default=RESULTS / "growth.json")
    options = parser.parse_args()
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    for name in [part for part in PARTS if part in (options.parts or PARTS)]:
        known[name] = {"machine": machine_facts(), "rows": PARTS[name]()}
        options.output.write_text(json.dumps(known, indent=2) + "\n")


if __name__ == "__main__":
    main()
