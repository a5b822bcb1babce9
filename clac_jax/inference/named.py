"""Which model a name means: what `clac_jax.load` accepts."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.export import MODEL_FILE
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.checkpoint.locate import locate
from clac_jax.errors import warn
from clac_jax.files.paths import local_path
from clac_jax.inference import mini
from clac_jax.inference.hub import PREFIX, hub_folder
from clac_jax.inference.published import open_published
from clac_jax.inference.source import Source, frozen


def open_source(what: str | os.PathLike[str]) -> Source:
    """Finds a model; arguments and errors as for `clac_jax.load`."""
    name = os.fspath(what)
    if name == mini.NAME and isinstance(what, str):
        if Path(name).exists():
            warn(
                f"{name!r} is the model that comes with the package. For the folder of that name "
                f"write ./{name}."
            )
        return mini.open_mini()
    if name.startswith(PREFIX) and isinstance(what, str):
        return open_published(hub_folder(name), name)
    path = local_path(what, "The name of a model")
    if path.name == MODEL_FILE and path.is_file():
        return open_published(path.parent, name)
    if (path / MODEL_FILE).is_file() and not (path / CHECKPOINTS).exists():
        return open_published(path, name)
    info = locate(name)
    return Source(
        name,
        frozen(info.config),
        info.step,
        {path: leaf.shape for path, leaf in info.leaves.items()},
        functools.partial(read_arrays, info),
    )
