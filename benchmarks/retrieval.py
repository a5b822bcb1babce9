"""Retrieval on the test split of finished runs, side by side, as a Markdown table and JSON.

python -m benchmarks.retrieval "base=outputs/base" "composition only=outputs/composition"
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, write_results
from clac_jax.reporting.metrics_file import read_rows

COLUMNS = [
    (direction, k, suffix)
    for suffix in ("", "_no_formula")
    for direction in ("text_to_crystal", "crystal_to_text")
    for k in (1, 3, 10)
]


def test_row(workdir: Path) -> dict[str, Any]:
    """The test metrics of a finished run, its epochs and its median examples per second."""
    rows = read_rows(workdir / "metrics.jsonl")
    tests = [row for row in rows if row["split"] == "test"]
    if not tests:
        raise SystemExit(f"{workdir} has no test row: the run has not finished. Resume it.")
    rates = [row["examples_per_second"] for row in rows if row["split"] == "train"]
    config = json.loads((workdir / "config.json").read_text())
    return tests[-1] | {
        "epochs": config["max_epochs"],
        "median_examples_per_second": sorted(rates)[len(rates) // 2],
    }


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Top-1 / top-3 / top-10 in percent, both directions, with full texts and without formulas."""
    lines = [
        "| run | text → crystal | crystal → text | text → crystal, no formula "
        "| crystal → text, no formula |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        values = [f"{100 * row[f'{way}_top{k}{suffix}']:.1f}" for way, k, suffix in COLUMNS]
        cells = [" / ".join(values[start : start + 3]) for start in range(0, len(values), 3)]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="NAME=WORKDIR")
    parser.add_argument("--output", type=Path, default=RESULTS / "retrieval.json")
    options = parser.parse_args()
    rows = {
        name: test_row(Path(workdir))
        for name, _, workdir in (r.partition("=") for r in options.runs)
    }
    print(table(rows))
    write_results(options.output, {"runs": rows})


if __name__ == "__main__":
    main()
