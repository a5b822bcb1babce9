"""MB per second to and from an object store, the memory this takes, and requests repeated.

Against the server of the tests, on this machine and in a process of its own, with and without
faults; or against a real bucket, whose credentials come from the environment. Each measurement runs
in a process of its own, so that its peak memory is its own.

    python -m benchmarks.stores [--megabytes=256] [--url=s3://BUCKET/FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, write_results

# A store on a bad day: every tenth request fails, in one way or another.
FAULTS = {
    "unavailable": 0.02, "throttled": 0.01, "reset": 0.02, "torn_upload": 0.02,
    "torn_download": 0.02, "lost_answer": 0.02,
}  # fmt: skip


def measure(url: str, path: Path, kind: str) -> dict[str, Any]:
    """Puts a file and reads it back, in this process.

    Args:
        url: a folder of a bucket.
        path: the file.
        kind: "in parts", "in one request" (a conditional put), or "small" (1000 objects of 1 kB).
    """
    from clac_jax.stores.store import StoreOptions, open_store

    store = open_store(url, StoreOptions(patience_seconds=300))
    store.head("first")  # connects
    start, cpu_start = time.perf_counter(), time.process_time()
    with PeakMemory() as memory:
        if kind == "small":
            size = 1_000_000
            for number in range(1000):
                store.put(f"small/{number}", bytes(1000))
            middle = time.perf_counter()
            for number in range(1000):
                store.get(f"small/{number}")
        else:
            size = path.stat().st_size
            store.delete("large")
            store.put("large", path, if_absent=kind == "in one request")
            middle = time.perf_counter()
            copy = path.with_name(f"{path.name}.copy")
            checksum = store.download("large", copy)
            assert checksum == int(path.with_suffix(".crc").read_text())
            copy.unlink()
    end, cpu = time.perf_counter(), time.process_time() - cpu_start
    return {
        "megabytes": size / 1e6,
        "up_mb_per_s": size / 1e6 / (middle - start),
        "down_mb_per_s": size / 1e6 / (end - middle),
        "cpu_s": cpu,
        "peak_memory_mb": memory.peak - memory.start,
        "requests": store.counts.requests,
        "retries": store.counts.retries,
    }


class PeakMemory:
    """Peak of this process's memory, without the pages of mapped files, which can be dropped."""

    def __enter__(self) -> PeakMemory:
        self.start = self.peak = self._now()
        self._is_done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_done.wait(0.005):
            self.peak = max(self.peak, self._now())

    def _now(self) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))


def in_own_process(url: str, path: Path, kind: str) -> dict[str, Any]:
    """`measure` in a new process, with this one's environment."""
    command = [sys.executable, "-m", "benchmarks.stores", f"--url={url}", f"--measure={kind}"]
    answer = subprocess.run(
        [*command, f"--file={path}"], check=True, cwd=ROOT, capture_output=True, text=True
    )
    return dict(json.loads(answer.stdout))


def measure_all(url: str, path: Path) -> dict[str, Any]:
    """The three kinds of transfers with one store."""
    return {
        kind: in_own_process(url, path, kind) for kind in ("in parts", "in one request", "small")
    }


def write_file(path: Path, megabytes: int) -> None:
    """A file of random bytes, and its checksum next to it."""
    checksum = 0
    with path.open("wb") as file:
        for _ in range(megabytes):
            block = os.urandom(1_000_000)
            checksum = zlib.crc32(block, checksum)
            file.write(block)
    path.with_suffix(".crc").write_text(str(checksum))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--url", default="", help="a real bucket; by default the server of tests")
    parser.add_argument("--output", type=Path, default=RESULTS / "stores.json")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.url, args.file, args.measure)))
        return
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        write_file(path, args.megabytes)
        if args.url:
            results[args.url.partition("://")[0]] = measure_all(args.url, path)
        else:
            sys.path.insert(0, str(ROOT / "tests"))
            from helpers.object_stores import misbehaving_store

            with misbehaving_store(1) as server, server.activated() as url:
                results["local server"] = measure_all(url, path)
                server.control(faults=FAULTS)
                results["local server with faults"] = measure_all(url, path)
    write_results(args.output, results)
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
