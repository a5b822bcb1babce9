"""Short training runs of every loss and encoder on the embedded data, as a table and JSON.

python -m benchmarks.methods outputs/methods            # all; resumes those interrupted
python -m benchmarks.methods outputs/methods cgcnn opt  # some
python -m benchmarks.methods outputs/longer jsd_concat --epochs=16 --output=...json

Each run is two passes over 1,024 crystals in batches of 64, with texts of 128 tokens and the first
two layers of MiniLM, frozen: one small model, changed only in what the run is named for. None is
tuned: the figures show that a method learns, not which is best. The JSON contains the settings.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS, train_if_unfinished, write_results
from benchmarks.retrieval import table, test_row
from configs.encoders import ENCODERS
from configs.losses import LOSSES

SETTINGS = {
    "batch_size": 64,
    "dataset.max_examples": 1024,
    "text_encoder.max_length": 128,
}
TWO_LAYERS = {"text_encoder.num_layers": 2}
SMALL_PAINN = {"graph_encoder.num_features": 64, "graph_encoder.num_interactions": 2}
# Two names for the base run's encoders, and one too large for a short run on a CPU.
LEFT_OUT = ("minilm", "orb_v3")


def flags(name: str, settings: dict[str, Any]) -> list[str]:
    """The command line of one method with these settings, without its workdir."""
    kind = "losses" if name in LOSSES else "encoders"
    changes = ENCODERS.get(name, {})
    sizes = {} if "graph_encoder.name" in changes else SMALL_PAINN
    sizes = sizes if "text_encoder.pretrained" in changes else sizes | TWO_LAYERS
    return [
        f"--config=configs/{kind}.py:{name}",
        *(f"--config.{key}={value}" for key, value in (settings | sizes).items()),
    ]


def train(name: str, settings: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """Runs or resumes the training of one method and returns its test row."""
    train_if_unfinished(flags(name, settings), workdir)
    return test_row(workdir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workdir", type=Path, help="holds one run for each method")
    parser.add_argument("names", nargs="*", help="of configs/losses.py and configs/encoders.py")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "methods.json")
    options = parser.parse_args()
    every = [name for name in (*LOSSES, *ENCODERS) if name not in LEFT_OUT]
    workdir = options.workdir.resolve()
    settings = SETTINGS | {"max_epochs": options.epochs}
    rows = {name: train(name, settings, workdir / name) for name in options.names or every}
    print(table(rows))
    write_results(options.output, {"settings": settings, "runs": rows})


if __name__ == "__main__":
    main()
