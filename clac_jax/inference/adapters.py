"""A model put together from a base and the adapters of a run that was trained on it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping

import numpy as np

from clac_jax.checkpoint.adapters import arrays_digest, read_adapter
from clac_jax.files.paths import path_text
from clac_jax.inference.errors import LoadError
from clac_jax.inference.source import Source, frozen
from clac_jax.stores.copies import local_copy


def with_adapter(base: Source, folder: str | os.PathLike[str]) -> Source:
    """The model of a run with adapters: what it trained, and its frozen weights from a base.

    Args:
        base: any model with these weights, such as the one that the run started from.
        folder: path or URL of a folder written by `clac-jax ckpt export --adapter`.

    Raises:
        AdapterError: the folder cannot be read.
        LoadError: the base has other weights than those that the run froze.
    """
    name = path_text(folder, "The folder of the adapters")
    adapter = read_adapter(local_copy(name, "adapter"))
    lacking = [path for path in adapter.base if path not in base.shapes]
    if lacking or arrays_digest(base.read(list(adapter.base))) != adapter.base_digest:
        why = f"it lacks {lacking[0]}" if lacking else "its weights differ"
        raise LoadError(
            f"{base.name} is not the base of the adapters in {name}: {why}. Load them with the "
            "model that their run started from (`restore` in its log), or with the run itself."
        )

    def read(paths: list[str]) -> Mapping[str, np.ndarray]:
        others = [path for path in paths if path not in adapter.arrays]
        own = {path: adapter.arrays[path] for path in paths if path in adapter.arrays}
        return {**base.read(others), **own}

    return dataclasses.replace(
        base,
        name=f"{base.name} with {name}",
        config=frozen(adapter.config),
        step=adapter.step,
        shapes={path: base.shapes[path] for path in adapter.base}
        | {path: array.shape for path, array in adapter.arrays.items()},
        read=read,
    )
