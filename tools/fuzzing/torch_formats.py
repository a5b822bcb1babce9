"""Files of `torch.save`, including PyTorch Lightning checkpoints."""

from __future__ import annotations

import io
import pickle
import random
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.files.torch import read_torch_file
from clac_jax.interop import lightning_file
from tools.fuzzing import mutations
from tools.fuzzing.format import MODELS, ROOT, Format, corrupt_one


def _torch_writer() -> Any:
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers import torch_writer  # of the tests, which does not need PyTorch

    return torch_writer


def _torch_content(k: int) -> Any:
    base = np.arange(60, dtype=np.float32).reshape(6, 10)
    contents = [
        {"weight": base, "again": base, "nested": [{"epoch": 3, "name": "é", "x": (1.5, None)}]},
        {
            "flags": np.array([True, False]),
            "ids": np.arange(5),
            "scalar": np.full((), 2.0),
        },
        {
            "state": {0: {"step": np.ones((), np.float32), "exp_avg": base * 2}},
            "half": base.astype("f2"),
        },
    ]
    return contents[k]


def _make_torch(old: bool) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for k in range(3):
            (folder / str(k)).mkdir()
            _torch_writer().save(_torch_content(k), folder / str(k) / "file.pt", old)

    return make


def _torch_pickle(data: bytes, rng: random.Random) -> bytes:
    """A valid archive with mutated pickle instructions."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    return mutations.write_zip(
        [
            (name, mutations.corrupt_pickle(content, rng) if name.endswith(".pkl") else content)
            for name, content in members
        ]
    )


def _read_torch(folder: Path) -> Any:
    return read_torch_file(folder / "file.pt")


def _make_lightning(folder: Path) -> None:
    for k, name in enumerate(("painn_bert", "cgcnn_opt")):
        saved = read_torch_file(MODELS / name / "last.ckpt")
        saved["state_dict"] = {"a.weight": np.ones((2, 3), np.float32)}
        for optimizer in saved["optimizer_states"]:
            optimizer["state"] = {0: optimizer["state"][0]}
        (folder / str(k)).mkdir()
        (folder / str(k) / "saved.pickle").write_bytes(pickle.dumps(saved))  # trusted; read below


def _corrupt_lightning(folder: Path, rng: random.Random) -> bool:
    saved = mutations.corrupt_json(pickle.loads((folder / "saved.pickle").read_bytes()), rng)
    try:
        _torch_writer().save(saved, folder / "last.ckpt")
    except (ValueError, OverflowError, RecursionError):
        _torch_writer().save({}, folder / "last.ckpt")
    return False


def _read_lightning(folder: Path) -> Any:
    if not (folder / "last.ckpt").exists():
        return None
    return lightning_file.read_lightning_file(folder / "last.ckpt").missing


FORMATS = (
    Format(
        "torch-zip",
        _make_torch(False),
        corrupt_one("file.pt", mutations.corrupt_zip, _torch_pickle, _torch_pickle, checked=True),
        _read_torch,
    ),
    Format(
        "torch-legacy",
        _make_torch(True),
        corrupt_one("file.pt", mutations.corrupt_pickle),
        _read_torch,
    ),
    Format("lightning", _make_lightning, _corrupt_lightning, _read_lightning),
)
