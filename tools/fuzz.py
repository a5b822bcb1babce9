"""Corrupts files of every format that the project reads, and counts how its readers respond.

    python tools/fuzz.py --seconds=60 --seed=1 [--only=torch-zip,csv] [--keep=FOLDER]
    python tools/fuzz.py --only=torch-zip --seed=1 --case=1234    # repeat one case, with its error

Correct responses are to read the original content, or to raise a `UserError` with a one-line
message. Faults are a traceback, a hang, a crash, excessive memory, content that a checksum should
have rejected, and the execution of code. The inputs of a few faults per code location are kept, and
the exit code is 1 if there are any.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

from tools.fuzzing import worker
from tools.fuzzing.format import Format
from tools.fuzzing.formats import FORMATS

KEPT_PER_LOCATION = 2


def main() -> int:
    """Runs the command line and returns the exit code."""
    parser = argparse.ArgumentParser(description="Corrupts files of every format and reads them.")
    parser.add_argument("--seconds", type=float, default=60, help="time for all formats together")
    parser.add_argument(
        "--cases", type=int, default=1_000_000, help="largest number of cases per format"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--only", default=",".join(FORMATS), help="comma-separated names of formats"
    )
    parser.add_argument("--case", type=int, help="repeat one case of one format and show its error")
    parser.add_argument(
        "--keep", type=Path, default=Path("outputs/fuzz"), help="folder for the inputs of faults"
    )
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(FORMATS)
    if unknown:
        parser.error(f"unknown format {', '.join(sorted(unknown))}; use {', '.join(FORMATS)}")
    formats = [FORMATS[name] for name in options.only.split(",")]
    with tempfile.TemporaryDirectory(prefix="fuzz_") as scratch:
        counts, faults = {}, collections.Counter()
        for k, format in enumerate(formats):
            examples = Path(scratch) / format.name / "examples"
            _make_examples(format, examples)
            if options.case is not None:
                return _repeat_case(format, examples, options.seed, options.case)
            until = time.monotonic() + options.seconds / len(formats)
            counts[format.name] = collections.Counter()
            results = worker.run_cases(
                format, examples, examples.parent, options.seed, 0, options.cases, until
            )
            for result in results:
                counts[format.name][result.outcome] += 1
                if result.outcome in worker.FAULTS:
                    place = f"{format.name}: {result.outcome}: {_place(result)}"
                    faults[place] += 1
                    if faults[place] <= KEPT_PER_LOCATION:
                        _keep(options.keep, format, examples, options.seed, result)
            if k == 0:
                print(_line("format", {name: name for name in worker.OUTCOMES}))
            print(_line(format.name, counts[format.name]), flush=True)
    print(_line("all", sum(counts.values(), collections.Counter())))
    for place, number in faults.most_common():
        print(f"{number:6} x {place}")
    if faults:
        print(f"faults    kept in {options.keep} with seed {options.seed}")
    return 1 if faults else 0


def _make_examples(format: Format, folder: Path) -> None:
    """Runs in a separate process, so that none of its threads exist when the cases are forked."""
    folder.mkdir(parents=True)
    child = os.fork()
    if child == 0:
        code = 1
        try:
            format.make(folder)
            code = 0
        finally:
            os._exit(code)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError(f"the examples of {format.name} could not be created")


def _repeat_case(format: Format, examples: Path, seed: int, number: int) -> int:
    case = examples.parent / "case"
    name, checked = worker.corrupt(format, examples, case, seed, number)
    print(f"example {name}{', covered by checksums' if checked else ''}: {case}")
    until = time.monotonic() + 3600
    for result in worker.run_cases(
        format, examples, examples.parent, seed, number, number + 1, until
    ):
        print(result.outcome, result.detail, sep="\n")
        return int(result.outcome in worker.FAULTS)
    return 1


def _place(result: worker.Result) -> str:
    """The code location of a fault and its error, without content of the file."""
    lines = [line for line in result.detail.splitlines() if line.strip()]
    if result.outcome != "traceback" or not lines:
        return re.sub(r"\d+", "N", lines[-1] if lines else "")[:100]
    own = [
        line.strip() for line in lines if "/clac_jax/" in line and line.strip().startswith("File")
    ]
    where = re.sub(
        r'File ".*/(clac_jax/[^"]*)", line (\d+), in (\w+).*', r"\1:\2 \3", own[-1] if own else ""
    )
    error = next(
        (
            line
            for line in reversed(lines)
            if re.match(r"[\w.]+(Error|Exception|Warning|Exit)", line)
        ),
        lines[-1],
    )
    return f"{where}: {re.sub(r'[0-9]+', 'N', error)[:80]}"


def _keep(folder: Path, format: Format, examples: Path, seed: int, result: worker.Result) -> None:
    """Stores the input of a fault, and the command that reproduces it."""
    kept = folder / f"{format.name}-{seed}-{result.number}"
    case = examples.parent / "kept"
    worker.corrupt(format, examples, case, seed, result.number)
    kept.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(kept / "input", ignore_errors=True)
    os.rename(case, examples.parent / "input")
    shutil.copytree(examples.parent / "input", kept / "input", symlinks=True, ignore=_no_files)
    shutil.rmtree(examples.parent / "input")
    command = f"python tools/fuzz.py --only={format.name} --seed={seed} --case={result.number}"
    (kept / "outcome.txt").write_text(
        f"{command}\n{result.outcome}\n{result.detail}\n", "utf-8", "replace"
    )


def _no_files(folder: str, names: list[str]) -> list[str]:
    """Named pipes, which cannot be copied."""
    return [name for name in names if (Path(folder) / name).is_fifo()]


def _line(name: str, values: dict[str, object]) -> str:
    cells = "".join(
        f"{values.get(outcome, 0) or '':>{max(9, len(outcome) + 2)}}" for outcome in worker.OUTCOMES
    )
    numbers = [value for value in values.values() if isinstance(value, int)]
    return f"{name:<15}{sum(numbers) if numbers else 'cases':>9}{cells}"


if __name__ == "__main__":
    sys.exit(main())
