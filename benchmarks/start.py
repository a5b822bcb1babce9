"""From the start of the program until its first step is on its way, fresh and resumed, by part.

    python -m benchmarks.start --run=outputs/base

Each start is the real program (`main.py`), ended when its first step has been compiled and
dispatched. The parts are those of events.jsonl: see docs/goodput.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, ROOT, SHARED_CORES, write_results

LIMIT_SECONDS = 900


def main() -> None:
    """Measures every start, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="configs/base.py")
    parser.add_argument("--run", type=Path, default=ROOT / "outputs/base", help="a finished run")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--flags", nargs="*", default=[], help="further flags of main.py")
    parser.add_argument("--output", type=Path, default=RESULTS / "start.json")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache, flags = Path(folder) / "cache", [f"--config={options.config}", *options.flags]
        flags.append(f"--config.compilation_cache={cache}/xla")
        os.environ["CLAC_JAX_CACHE"] = f"{cache}/clac-jax"  # for the programs started below
        for origin in ("fresh", "resumed"):
            workdir = Path(folder) / origin
            if origin == "resumed":
                shutil.copytree(options.run, workdir)
                epochs = json.loads((workdir / "config.json").read_text())["max_epochs"]
                flags = [*flags, f"--config.max_epochs={epochs + 1}"]
            shutil.rmtree(cache, ignore_errors=True)
            results[f"{origin}, cold cache"] = [_start(workdir, flags)]
            results[f"{origin}, warm cache"] = [
                _start(workdir, flags) for _ in range(options.repeats)
            ]
            for name in (f"{origin}, cold cache", f"{origin}, warm cache"):
                results[name] = _median(results[name])
                print(name, json.dumps(results[name]), flush=True)
    write_results(options.output, {"timing": SHARED_CORES, "starts": results})


def _start(workdir: Path, flags: list[str]) -> dict[str, float]:
    """Seconds until the first step is on its way: in all, of CPU time, and by part."""
    events = workdir / "events.jsonl"
    events.unlink(missing_ok=True)
    command = [sys.executable, "main.py", *flags, f"--workdir={workdir}"]
    began = time.time()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            while (found := _until_dispatched(events)) is None:
                if process.poll() is not None or time.time() - began > LIMIT_SECONDS:
                    raise SystemExit(f"{' '.join(command)} has not trained a step.")
                time.sleep(0.02)
            cpu = _cpu_seconds(process.pid)
        finally:
            process.send_signal(signal.SIGKILL)
    return {"total": found.pop("at") - began, "cpu": cpu, **found}


def _until_dispatched(path: Path) -> dict[str, float] | None:
    """When the first step was dispatched, unix seconds, and the seconds by part; None before."""
    if not path.exists():
        return None
    parts: dict[str, float] = {}
    for line in path.read_text().splitlines(keepends=True):
        if not line.endswith("\n"):
            return None
        event = json.loads(line)
        for name, seconds in event["seconds"].items():
            parts[name] = parts.get(name, 0.0) + seconds
        if event["kind"] == "compiled":
            return {"at": event["at"], **parts}
    return None


def _cpu_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _median(starts: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for start in starts for name in start)
    return {
        name: round(statistics.median(start.get(name, 0.0) for start in starts), 2)
        for name in names
    }


if __name__ == "__main__":
    main()
