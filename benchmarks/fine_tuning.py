"""Properties of unseen crystals by a pretrained graph encoder, and without one: a table and JSON.

python -m benchmarks.fine_tuning outputs/base outputs/fine_tuning

Each property is learned from the best checkpoint of the first run, from it with the encoder frozen
(the head alone is trained), and from scratch, with the same settings; beside them stands the best
constant guess. A run that was stopped goes on when the command is started again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.retrieval import test_row
from benchmarks.step import HERE, machine_facts

UNITS = {
    "band gap": "eV",
    "formation energy per atom": "eV/atom",
    "crystal system": "",
}
STARTS = ("pretrained", "pretrained, frozen", "from scratch")


def flags(name: str, start: str, base: Path) -> list[str]:
    """The command line of one run, workdir and length aside."""
    source = "" if start == "from scratch" else f"{base}@best"
    frozen = ["--config.frozen=('graph_encoder/.*',)"] if "frozen" in start else []
    return [
        f"--config=configs/finetune_property.py:{name}",
        f"--config.resume_from={source}",
        *frozen,
    ]


def train(name: str, start: str, base: Path, workdir: Path, epochs: int) -> dict[str, Any]:
    """Runs one, or goes on with it, and returns its test row."""
    metrics = workdir / "metrics.jsonl"
    if not (metrics.exists() and '"split": "test"' in metrics.read_text()):
        command = [sys.executable, "main.py", *flags(name, start, base)]
        command += [f"--workdir={workdir}", f"--config.max_epochs={epochs}"]
        subprocess.run(command, check=True, cwd=HERE.parent)
    return test_row(workdir)


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """MAE or accuracy on the test split, a property a row."""
    lines = [
        "| property | " + " | ".join(STARTS) + " | constant guess |",
        "| --- |" + " --- |" * (len(STARTS) + 1),
    ]
    for name, by_start in rows.items():
        measure = "mae" if "test_mae" in by_start[STARTS[0]] else "accuracy"
        values = [by_start[start][f"test_{measure}"] for start in STARTS]
        values.append(by_start[STARTS[0]][f"constant_guess_{measure}"])
        cells = [f"{100 * x:.1f} %" if measure == "accuracy" else f"{x:.3f}" for x in values]
        title = f"{name}, accuracy" if measure == "accuracy" else f"{name}, MAE in {UNITS[name]}"
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", type=Path, help="workdir of a finished run of configs/base.py")
    parser.add_argument("workdir", type=Path, help="holds one run for each property and start")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--output", type=Path, default=HERE / "results" / "fine_tuning.json")
    options = parser.parse_args()
    base, workdir = options.base.resolve(), options.workdir.resolve()
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name in UNITS:
        rows[name] = {}
        for start in STARTS:
            folder = workdir / f"{name}, {start}".replace(", ", "-").replace(" ", "_")
            rows[name][start] = train(name, start, base, folder, options.epochs)
    print(table(rows))
    content = {"machine": machine_facts(), "runs": rows}
    options.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
