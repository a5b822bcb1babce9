"""Properties of unseen crystals with and without a pretrained graph encoder: a table and JSON.

python -m benchmarks.fine_tuning outputs/base outputs/fine_tuning

Each property is learned from the best checkpoint of the first run, from it with the encoder frozen
(only the head is trained), and from scratch, with the same settings; the best constant guess is
listed for comparison. Run the command again to resume interrupted runs.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, train_if_unfinished, write_results
from benchmarks.retrieval import test_row

UNITS = {
    "band gap": "eV",
    "formation energy per atom": "eV/atom",
    "crystal system": "",
}
STARTS = ("pretrained", "pretrained, frozen", "from scratch")


def flags(name: str, start: str, base: Path) -> list[str]:
    """The command line of one run, without its workdir and length."""
    source = "" if start == "from scratch" else f"{base}@best"
    frozen = ["--config.frozen=('graph_encoder/.*',)"] if "frozen" in start else []
    return [
        f"--config=configs/finetune_property.py:{name}",
        f"--config.resume_from={source}",
        *frozen,
    ]


def train(name: str, start: str, base: Path, workdir: Path, epochs: int) -> dict[str, Any]:
    """Runs or resumes one training and returns its test row."""
    train_if_unfinished([*flags(name, start, base), f"--config.max_epochs={epochs}"], workdir)
    return test_row(workdir)


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """MAE or accuracy on the test split, one property per row."""
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
    parser.add_argument("--output", type=Path, default=RESULTS / "fine_tuning.json")
    options = parser.parse_args()
    base, workdir = options.base.resolve(), options.workdir.resolve()
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for name in UNITS:
        rows[name] = {}
        for start in STARTS:
            folder = workdir / f"{name}, {start}".replace(", ", "-").replace(" ", "_")
            rows[name][start] = train(name, start, base, folder, options.epochs)
    print(table(rows))
    write_results(options.output, {"runs": rows})


if __name__ == "__main__":
    main()
