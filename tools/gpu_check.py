"""Checks correctness and speed on the accelerator of this machine, in at most fifteen minutes.

    make gpu-check                              # = python tools/gpu_check.py
    python tools/gpu_check.py --size=small      # a trial of the program itself, also on a CPU
    python tools/gpu_check.py --parts parity    # some parts only

Needs JAX with its accelerator and the project's other requirements; a machine without network
takes these from the folder that `make gpu-wheels` creates elsewhere. No data set is read. Each part
has a time limit and separate processes: a part that fails is reported and the others still run.
Results are written after each part, as JSON and as Markdown tables.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.gpu import absent, children, parts, wheels, workers
from tools.gpu.report import report

ROOT = Path(__file__).parents[1]
SECONDS = 900
WHEELS_VARIABLE = "GPU_CHECK_WHEELS"
"""Environment variable of the child processes: the folder of the wheels."""


def prepare(folder: Path) -> list[str]:
    """Makes the unpacked wheels importable, before the packages of the machine.

    Those are often too old: an image with JAX may have an Orbax of a year ago.

    Args:
        folder: folder of the wheels; need not exist.

    Returns:
        The packages that are not installed and were replaced by stand-ins.
    """
    unpacked = wheels.unpack(folder)
    if unpacked is not None:
        sys.path.insert(0, str(unpacked))
    return absent.stand_in_for_absent()


def run_part(name: str, sizes: parts.Sizes, limit: float, deadline: float) -> dict[str, Any]:
    """Runs one part until it finishes, fails or times out; an error becomes its outcome.

    Args:
        name: name of the part.
        sizes: amount of work.
        limit: time limit in seconds.
        deadline: `time.monotonic()` at which it is stopped even if it started late.
    """
    function, start = parts.PARTS[name][0], time.monotonic()
    error, result = "", None
    try:
        result = function(sizes, min(deadline, start + limit))
    except (parts.PartError, children.ChildError) as failure:
        error, result = str(failure), failure.partial
    except Exception as failure:  # a part must not stop the others
        error = f"{type(failure).__name__}: {failure}"
    outcome = "complete" if not error else error.splitlines()[0]
    seconds = time.monotonic() - start
    return {"outcome": outcome, "seconds": seconds, "error": error, "result": result}


def time_limit(name: str, names: list[str], seconds: float) -> float:
    """The time limit of a part in seconds.

    Args:
        name: name of the part.
        names: names of all parts, in order.
        seconds: time left for this part and those after it.
    """
    weights = [parts.PARTS[later][1] for later in names[names.index(name) :]]
    return seconds * weights[0] / sum(weights)


def check(names: list[str], size: str, seconds: float, output: Path, facts: dict[str, Any]) -> bool:
    """Runs the parts and writes their results; returns whether all were complete.

    Args:
        names: names of the parts.
        size: a key of `parts.SIZES`.
        seconds: time limit for all parts together.
        output: path of the two files, without their suffixes.
        facts: facts to write with the results.
    """
    deadline = time.monotonic() + seconds
    content: dict[str, Any] = {"size": size, **facts, "parts": {}}
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        limit = time_limit(name, names, deadline - time.monotonic())
        done = run_part(name, parts.SIZES[size], limit, deadline)
        print(f"{name:16}{done['outcome']}, {done['seconds']:.0f} s", flush=True)
        content["parts"][name] = done
        text = json.dumps(content, indent=2) + "\n"
        output.with_suffix(".json").write_text(text, encoding="utf-8")
        output.with_suffix(".md").write_text(report(content), encoding="utf-8")
    print(f"written to {output.with_suffix('.json')} and {output.with_suffix('.md')}")
    return all(part["outcome"] == "complete" for part in content["parts"].values())


def main() -> int:
    """Runs the command line; returns 0 if all parts were complete, otherwise 1."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=parts.SIZES, default="full")
    parser.add_argument("--parts", nargs="+", choices=parts.PARTS, default=list(parts.PARTS))
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for all parts together")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "gpu_check")
    parser.add_argument("--wheels", type=Path, default=ROOT / wheels.FOLDER)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ[WHEELS_VARIABLE] = os.environ.get(WHEELS_VARIABLE) or str(options.wheels.resolve())
    missing = prepare(Path(os.environ[WHEELS_VARIABLE]))
    if options.child:
        children.serve(options.child, workers.WORKERS)
        return 0
    if missing:
        print(f"not installed, and not needed: {', '.join(missing)}")
    facts = {"not_installed": missing}
    with tempfile.TemporaryDirectory(prefix="gpu_check_cache_") as cache:
        # Most of the time is compilation: what one part compiled or tuned, the later ones read.
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", cache)
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
        complete = check(options.parts, options.size, options.seconds, options.output, facts)
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
