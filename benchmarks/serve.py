"""Concurrent clients of `clac-jax serve`: queries per second, latencies and errors, as JSON.

python -m benchmarks.serve idx/ [--model RUN] [--clients 50] [--seconds 60]

Each client sends its next query when it has the answer to the last one. Queries are different for
each request; every fourth has a condition.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from benchmarks.common import RESULTS, ROOT, SHARED_CORES, write_results

_WORDS = re.findall(
    r"\w+",
    "oxide sulfide nitride carbide fluoride phosphate telluride intermetallic cubic hexagonal "
    "tetragonal layered perovskite spinel metal insulator semiconductor stable lithium sodium "
    "iron titanium lead barium dense light wide narrow gap magnetic piezoelectric",
)
_WHERE = ("band_gap > 1", "n_atoms < 12", "has('O')", "not has('Pb') and n_elements == 3")


def query(rng: random.Random, sentences: bool) -> dict[str, Any]:
    """A random search of a few words."""
    words = " ".join(rng.sample(_WORDS, rng.randint(2, 8)))
    content: dict[str, Any] = {"text": f"a {words} compound", "k": 10, "sentences": sentences}
    if rng.random() < 0.25:
        content["where"] = rng.choice(_WHERE)
    return content


class Client(threading.Thread):
    """Sends queries until a time; keeps latencies and errors."""

    def __init__(self, address: tuple[str, int], number: int, end: float, sentences: bool):
        super().__init__(daemon=True)
        self._address = address
        self._rng = random.Random(number)
        self._end = end
        self._sentences = sentences
        self.latencies: list[float] = []
        self.errors: list[str] = []

    def run(self) -> None:  # noqa: D102
        connection = http.client.HTTPConnection(*self._address, timeout=120)
        while time.perf_counter() < self._end:
            body = json.dumps(query(self._rng, self._sentences))
            start = time.perf_counter()
            try:
                connection.request("POST", "/search", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = json.loads(response.read())
            except (OSError, ValueError, http.client.HTTPException) as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                connection.close()
                continue
            self.latencies.append(time.perf_counter() - start)
            if response.status != 200 or not content["hits"]:
                self.errors.append(f"{response.status}: {content.get('error', 'no hits')}")
        connection.close()


def load(url: str, clients: int, seconds: float, sentences: bool) -> dict[str, Any]:
    """The figures of one run of all clients."""
    parts = urlsplit(url)
    address = (parts.hostname or "", parts.port or 80)
    end = time.perf_counter() + seconds
    threads = [Client(address, number, end, sentences) for number in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - start
    latencies = 1000 * np.array([value for thread in threads for value in thread.latencies])
    errors = list(itertools.chain.from_iterable(thread.errors for thread in threads))
    return {
        "clients": clients,
        "seconds": took,
        "queries": len(latencies),
        "queries_per_second": len(latencies) / took,
        "p50_ms": float(np.percentile(latencies, 50)),
        "p99_ms": float(np.percentile(latencies, 99)),
        "max_ms": float(latencies.max()),
        "errors": len(errors),
        "first_errors": errors[:3],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index")
    parser.add_argument("--model")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--output", type=Path, default=RESULTS / "serve.json")
    options = parser.parse_args()
    command = [sys.executable, "-m", "clac_jax", "serve", options.index, "--port", "0"]
    if options.model:
        command += ["--model", options.model]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdout is not None
    try:
        url = server.stdout.readline().strip()
        if not url:
            raise SystemExit("the server did not start")
        load(url, options.clients, 10.0, False)  # compiles what is left
        results = {"without sentences": load(url, options.clients, options.seconds, False)}
        results["with sentences"] = load(url, options.clients, options.seconds, True)
        one = load(url, 1, 10.0, False)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    with open(Path(options.index) / "index.json", encoding="utf-8") as file:
        info = json.load(file)
    facts = {"crystals": info["count"], "dim": info["model"]["dim"], "exit_code": code}
    results["one client, without sentences"] = one
    write_results(options.output, {"note": SHARED_CORES, "index": facts, "results": results})
    for name, row in results.items():
        print(
            f"{name}: {row['clients']} clients, {row['queries_per_second']:.1f} queries/s, "
            f"p50 {row['p50_ms']:.0f} ms, p99 {row['p99_ms']:.0f} ms, {row['errors']} errors"
        )


if __name__ == "__main__":
    main()
