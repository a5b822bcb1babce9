"""User tables, and the data sets prepared from them."""

import json

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from clac_jax import datasets
from clac_jax.datasets.options import TableOptions
from clac_jax.datasets.split import SPLITS


def row(k, **changes):
    atoms = {
        "lattice_mat": [[3.0 + 0.01 * k, 0, 0], [0, 3.0, 0], [0, 0, 3.0]],
        "elements": ["Cs", "Cl"],
        "coords": [[0, 0, 0], [0.5, 0.5, 0.5]],
        "cartesian": False,
    }
    values = {
        "id": f"m-{k}",
        "atoms": json.dumps(atoms),
        "gpt_text": f"Crystal number {k}.",
        "gpt_explanation": "It is a salt.",
        "band gap": 1.0 * k,
    }
    return values | changes


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return path
    table = pa.table({key: [r.get(key) for r in rows] for key in rows[0]})
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def load_all(path, data_dir, **options):
    options = TableOptions(**options)
    return {
        split: datasets.load("gpt_narratives", data_dir, split, str(path), options)
        for split in SPLITS
    }


def records_of(path, data_dir, **options):
    """All records of a table by id."""
    return {
        r.material_id: r for split in load_all(path, data_dir, **options).values() for r in split
    }
