"""Time and peak memory of preparing a user's table much larger than the memory it may use.

    python -m benchmarks.build_data [--gigabytes 1 10] [--text_kb 5] [--folder /tmp/build_data]

Writes a parquet of crystals with texts of random words, builds it in a process of its own, and
reads some records. It needs about three times the size in free space and removes its files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.common import RESULTS, write_results

ROWS_PER_GROUP = 10_000
ATOMS = 20

BUILD = """
import sys, time
import numpy as np
from clac_jax import datasets
from clac_jax.datasets import prepare
path, data_dir = sys.argv[1:]
def peak():
    status = open("/proc/self/status").read()
    return int(status.split("VmHWM:")[1].split()[0]) / 2**20
at_import = peak()
start = time.perf_counter()
prepare("gpt_narratives", data_dir, path)
built, cpu, memory = time.perf_counter() - start, time.process_time(), peak()
start = time.perf_counter()
records = datasets.load("gpt_narratives", data_dir, "train", path)
opened = time.perf_counter() - start
start = time.perf_counter()
for index in np.random.default_rng(0).choice(len(records), 1000):
    records[int(index)]
read = (time.perf_counter() - start) / 1000
print(at_import, built, cpu, memory, opened, read, len(records))
"""


def write_table(path: Path, rows: int, text_kb: float) -> None:
    """A parquet of crystals of ATOMS atoms each, and of a hundred texts of random words."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 10, 4000)
    words = np.array(["".join(map(chr, rng.integers(97, 123, length))) for length in lengths])
    drawn = words[rng.integers(0, len(words), (100, int(text_kb * 1000 / 6.5)))]
    texts = pa.array([" ".join(row) for row in drawn.tolist()])
    grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), -1).reshape(-1, 3)[:ATOMS] / 3
    writer = None
    for first in range(0, rows, ROWS_PER_GROUP):
        numbers = range(first, min(first + ROWS_PER_GROUP, rows))
        indices = pa.array(rng.integers(0, len(texts), len(numbers)), pa.int32())
        table = pa.table(
            {
                "id": [f"m-{number}" for number in numbers],
                "gpt_text": pa.DictionaryArray.from_arrays(indices, texts),
                "lattice": [(np.eye(3) * rng.uniform(8, 9)).tolist() for _ in numbers],
                "atomic_numbers": rng.integers(1, 80, (len(numbers), ATOMS)).tolist(),
                "frac_coords": (grid + rng.uniform(0, 0.02, (len(numbers), ATOMS, 3))).tolist(),
                "band gap": rng.uniform(0, 5, len(numbers)).tolist(),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)
    assert writer is not None
    writer.close()


def measure(gigabytes: float, text_kb: float, folder: Path) -> dict[str, Any]:
    """Writes and builds a table of this many gigabytes of text, and removes both."""
    folder.mkdir(parents=True, exist_ok=True)
    table, data_dir = folder / "table.parquet", folder / "data"
    rows = int(gigabytes * 1e9 / (text_kb * 1000))
    try:
        write_table(table, rows, text_kb)
        source = table.stat().st_size
        command = [sys.executable, "-c", BUILD, str(table), str(data_dir)]
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        total = time.perf_counter() - start
        at_import, built, cpu, memory, opened, read, train = map(float, done.stdout.split()[-7:])
        size = sum(file.stat().st_size for file in data_dir.rglob("*") if file.is_file())
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "rows": rows,
        "train_rows": int(train),
        "text_kb": text_kb,
        "parquet_gb": round(source / 1e9, 2),
        "prepared_gb": round(size / 1e9, 2),
        "build_s": round(built, 1),
        "cpu_s": round(cpu, 1),
        "rows_per_s": round(rows / built),
        "peak_gib": round(memory, 2),
        "peak_at_import_gib": round(at_import, 2),
        "open_s": round(opened, 2),
        "read_ms": round(read * 1e3, 3),
        "process_s": round(total, 1),
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1, 10])
    parser.add_argument("--text_kb", type=float, default=5)
    parser.add_argument("--folder", type=Path, default=Path("build_data"))
    parser.add_argument("--output", type=Path, default=RESULTS / "build_data.json")
    options = parser.parse_args()
    rows = []
    for size in options.gigabytes:
        rows.append(measure(size, options.text_kb, options.folder))
        print(rows[-1], flush=True)
    write_results(options.output, {"rows": rows})


if __name__ == "__main__":
    main()
