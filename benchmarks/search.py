"""Exact search of an index next to numpy and faiss: time per query and recall, as JSON and a table.

python -m benchmarks.search

Clustered unit vectors in files of 65,536 rows, as `clac-jax embed` writes them. Single queries are
those of a person at the command line; batches of 32 those of a busy server. Recall@10 is measured
against scores in float64 of the stored vectors.
"""

from __future__ import annotations

import argparse
import gc
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import RESULTS, SHARED_CORES, timed, write_results
from clac_jax.index.exact import ExactSearch
from clac_jax.index.plan import SHARD_ROWS

DIM = 256
K = 10
BATCH = 32
NPROBE = 16
_CLUSTERS_PER_ROW = 1 / 1000

Search = Callable[[np.ndarray], np.ndarray]
"""(q, DIM) float32 -> (q, K) rows."""


def make_shards(folder: Path, rows: int, seed: int = 0) -> list[np.ndarray]:
    """Files of clustered unit vectors in float16, memory-mapped."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(10, int(rows * _CLUSTERS_PER_ROW)), DIM)).astype(np.float32)
    shards = []
    for start in range(0, rows, SHARD_ROWS):
        size = min(SHARD_ROWS, rows - start)
        vectors = centres[rng.integers(len(centres), size=size)]
        vectors = vectors + 0.7 * rng.normal(size=vectors.shape).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        path = folder / f"vectors-{start}.npy"
        np.save(path, vectors.astype(np.float16))
        shards.append(np.load(path, mmap_mode="r"))
    return shards


def make_queries(shards: list[np.ndarray], count: int, seed: int = 1) -> np.ndarray:
    """Stored vectors with noise, as the query of a text is near some crystals."""
    rng = np.random.default_rng(seed)
    picked = [shards[rng.integers(len(shards))] for _ in range(count)]
    vectors = np.stack([shard[rng.integers(len(shard))] for shard in picked]).astype(np.float32)
    vectors += 0.02 * rng.normal(size=vectors.shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def truth(shards: list[np.ndarray], queries: np.ndarray) -> np.ndarray:
    """(q, K) rows by scores in float64."""
    scores = [shard.astype(np.float64) @ queries.T.astype(np.float64) for shard in shards]
    return np.argsort(-np.concatenate(scores), axis=0, kind="stable")[:K].T


def numpy_search(vectors: np.ndarray) -> Search:
    def search(queries: np.ndarray) -> np.ndarray:
        scores = queries @ vectors.T
        best = np.argpartition(-scores, K, axis=1)[:, :K]
        order = np.argsort(-np.take_along_axis(scores, best, 1), axis=1)
        return np.take_along_axis(best, order, 1)

    return search


def faiss_ivf(vectors: np.ndarray) -> Any:
    import faiss

    lists = int(len(vectors) ** 0.5)
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(DIM), DIM, lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.max_points_per_centroid, index.cp.niter = 64, 10
    index.train(vectors)
    index.add(vectors)
    index.nprobe = NPROBE
    return index


def measure(search: Search, queries: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    """Milliseconds of one query and per query of a batch, and recall@10."""
    found = search(queries)
    recall = np.mean([len({*a} & {*b}) / K for a, b in zip(found, expected, strict=True)])
    one = timed(search, queries[:1], repeats=15)
    many = timed(search, queries[:BATCH], repeats=5)
    return {
        "one_query_min_ms": 1000 * one["min_s"],
        "one_query_median_ms": 1000 * one["median_s"],
        "one_query_cpu_ms": 1000 * one["cpu_s"],
        "batch_min_ms_per_query": 1000 * many["min_s"] / BATCH,
        "recall_at_10": float(recall),
    }


def peak_mib() -> float:
    """Largest memory of this process that is not a mapped file, as far as the kernel counts it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run(rows: int, folder: Path) -> dict[str, Any]:
    """All methods on one number of vectors."""
    shards = make_shards(folder, rows)
    queries = make_queries(shards, 64)
    expected = truth(shards, queries)
    gc.collect()
    before = peak_mib()
    exact = ExactSearch(shards)
    methods = {"clac_jax exact, float16 files": measure(lambda q: exact.top(q, K).rows, queries,
                                                        expected)}  # fmt: skip
    methods["clac_jax exact, float16 files"]["memory_mib"] = peak_mib() - before
    mask = np.random.default_rng(2).random(rows) < 0.1
    masked = timed(lambda: exact.top(queries[:1], K, mask), repeats=15)
    methods["clac_jax exact, float16 files"]["one_query_where_ms"] = 1000 * masked["min_s"]
    vectors = np.concatenate([shard.astype(np.float32) for shard in shards])
    memory = vectors.nbytes / 2**20
    methods["numpy, float32 in memory"] = measure(numpy_search(vectors), queries, expected)
    methods["numpy, float32 in memory"]["memory_mib"] = memory
    import faiss

    flat = faiss.IndexFlatIP(DIM)
    flat.add(vectors)
    methods["faiss Flat"] = measure(lambda q: flat.search(q, K)[1], queries, expected)
    start = time.perf_counter()
    ivf = faiss_ivf(vectors)
    build = time.perf_counter() - start
    methods["faiss IVF"] = measure(lambda q: ivf.search(q, K)[1], queries, expected)
    methods["faiss IVF"]["build_s"] = build
    for name in ("faiss Flat", "faiss IVF"):
        methods[name]["memory_mib"] = memory
    return methods


def table(results: dict[str, dict[str, Any]]) -> str:
    """Milliseconds for one query / per query of 32, and recall@10."""
    lines = [
        "| vectors | method | one query, ms | in a batch of 32, ms | recall@10 | memory, MiB |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for rows, methods in results.items():
        for name, row in methods.items():
            lines.append(
                f"| {int(rows):,} | {name} | {row['one_query_min_ms']:.2f} | "
                f"{row['batch_min_ms_per_query']:.2f} | {row['recall_at_10']:.3f} | "
                f"{max(0, row['memory_mib']):,.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10**4, 10**5, 10**6])
    parser.add_argument("--output", type=Path, default=RESULTS / "search.json")
    options = parser.parse_args()
    results = {}
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            results[str(rows)] = run(rows, Path(folder))
        print(table({str(rows): results[str(rows)]}), flush=True)
    write_results(options.output, {"note": SHARED_CORES, "dim": DIM, "results": results})


if __name__ == "__main__":
    main()
