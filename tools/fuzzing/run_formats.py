"""Files that a run writes and reads: checkpoints, metrics, exported models."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from etils import epath

from clac_jax.checkpoint import export, files, layout, locate, manager
from clac_jax.config.check import ready
from clac_jax.config.schema import default_config, to_json
from clac_jax.reporting import metrics_file
from clac_jax.training.progress import RunProgress
from configs import saved
from tools.fuzzing.format import Format, as_json, as_json_lines, corrupt_one
from tools.fuzzing.model_formats import safetensors_header


def _make_checkpoint(folder: Path) -> None:
    config = default_config()
    arrays = {"params/a": np.arange(6, dtype=np.float32), "step": np.int32(8)}
    shapes = {name: jax.ShapeDtypeStruct(np.shape(x), x.dtype) for name, x in arrays.items()}
    checkpoints = manager.Checkpoints(folder / "0", config, shapes, 32)
    progress = RunProgress(step=8, epoch=1, examples_seen=32)
    checkpoints.save(arrays, progress, {"val_loss": 1.5})
    checkpoints.close()


def _corrupt_checkpoint(folder: Path, rng: random.Random) -> bool:
    checkpoint = folder / "checkpoints" / "8"
    fault = rng.random()
    if fault < 0.5:
        return corrupt_one("*/metadata", checked=True)(checkpoint, rng)
    if fault < 0.7:
        return corrupt_one("files.json", as_json, checked=True)(checkpoint, rng)
    if fault < 0.8:
        odd = (
            folder / "checkpoints" / rng.choice(("²", "99", "-1", "8.5", "1" * 5000, "a\nb", "007"))
        )
        with contextlib.suppress(OSError):  # not a valid name
            rng.choice((Path.mkdir, Path.touch, lambda path: path.symlink_to(path.name)))(odd)
        return False
    path = checkpoint / "run" / "metadata"  # with updated checksums
    path.write_bytes(as_json(path.read_bytes(), rng))
    files.write_manifest(epath.Path(checkpoint))
    return False


def _read_checkpoint(folder: Path) -> Any:
    directory = epath.Path(folder / "checkpoints")
    intact, _ = layout.read_all(directory)
    found = [locate.locate(f"{folder}{which}").to_json() for which in ("@last", "@step=8")]
    return found, sorted(intact)


def _make_metrics(folder: Path) -> None:
    (folder / "0").mkdir()
    table = [
        {
            "split": split,
            "step": 8 * k,
            "epoch": k,
            "examples_seen": 32 * k,
            "loss": 0.5,
            "val_loss": 1.5,
        }
        for k in range(4)
        for split in ("train", "val")
    ]
    text = "".join(json.dumps(row) + "\n" for row in table)
    (folder / "0" / "metrics.jsonl").write_text(text)


def _read_metrics(folder: Path) -> Any:
    path = folder / "metrics.jsonl"
    table = metrics_file.read_rows(path)
    metrics_file.MetricsFile(path, step=16).close()
    return table


def _make_export(folder: Path) -> None:
    _make_checkpoint(folder)
    export.export(locate.locate(str(folder / "0")), folder / "1")
    shutil.rmtree(folder / "0")


def _corrupt_export(folder: Path, rng: random.Random) -> bool:
    if rng.random() < 0.5:
        return corrupt_one("config.json", as_json)(folder, rng)
    return corrupt_one("model.safetensors", safetensors_header)(folder, rng)


def _read_export(folder: Path) -> Any:
    return export.import_model(folder, folder / "imported") is None


def _make_run_config(folder: Path) -> None:
    (folder / "0").mkdir()
    (folder / "0" / "config.json").write_text(to_json(default_config()))


FORMATS = (
    Format(
        "run-config",
        _make_run_config,
        corrupt_one("config.json", as_json, as_json),
        lambda folder: to_json(ready(saved.get_config(str(folder / "config.json")))),
    ),
    Format("checkpoint", _make_checkpoint, _corrupt_checkpoint, _read_checkpoint, 2 << 30),
    Format("metrics.jsonl", _make_metrics, corrupt_one("*.jsonl", as_json_lines), _read_metrics),
    Format("export", _make_export, _corrupt_export, _read_export, 4 << 30),
)
