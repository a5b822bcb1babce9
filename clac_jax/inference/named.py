"""Which model a name means: what `clac_jax.load` accepts."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from clac_jax.checkpoint.adapters import ADAPTER_FILE
from clac_jax.checkpoint.averages import read_evaluated
from clac_jax.checkpoint.export import MODEL_FILE
from clac_jax.checkpoint.fetched import split_name
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.errors import warn
from clac_jax.files.paths import local_path, path_text
from clac_jax.inference import mini
from clac_jax.inference.errors import LoadError
from clac_jax.inference.hub import PREFIX, hub_folder
from clac_jax.inference.published import open_published
from clac_jax.inference.source import Source, frozen
from clac_jax.stores.copies import local_copy
from clac_jax.stores.store import open_store
from clac_jax.stores.url import is_url


def open_source(what: str | os.PathLike[str]) -> Source:
    """Finds a model; arguments and errors as for `clac_jax.load`."""
    name = path_text(what, "The name of a model")
    if name == mini.NAME and isinstance(what, str):
        if Path(name).exists():
            warn(
                f"{name!r} is the model that comes with the package. For the folder of that name "
                f"write ./{name}."
            )
        return mini.open_mini()
    if name.startswith(PREFIX) and isinstance(what, str):
        return open_published(hub_folder(name), name)
    if is_url(name):
        published = published_copy(name)
        return open_published(published, name) if published else _of_checkpoint(name)
    path = local_path(name, "The name of a model")
    if path.name == MODEL_FILE and path.is_file():
        return open_published(path.parent, name)
    if (path / MODEL_FILE).is_file() and not (path / CHECKPOINTS).exists():
        return open_published(path, name)
    if (path / ADAPTER_FILE).is_file():
        raise LoadError(
            f"{name} holds only adapters. Name the model that they were trained on: "
            f"clac_jax.load(BASE, adapter={name!r})."
        )
    try:
        return _of_checkpoint(name)
    except CheckpointNotFoundError as error:
        base, selector = split_name(name)
        if base == mini.NAME and selector and not Path(base).exists():
            raise CheckpointNotFoundError(
                f"{error} The model of the package is called {mini.NAME}, without '@{selector}'."
            ) from error
        if path.exists() or "@" in name:
            raise
        raise CheckpointNotFoundError(
            f"{error} The model of the package is called {mini.NAME}, one on the Hugging Face Hub "
            f"{PREFIX}owner/name."
        ) from error


def published_copy(url: str) -> Path | None:
    """A local copy of a published folder in an object store; None if it is not one.

    Args:
        url: URL of the folder or of its `model.safetensors`.

    Raises:
        StoreError: the store cannot be read.
    """
    folder = url.strip().rstrip("/").removesuffix(f"/{MODEL_FILE}")
    if split_name(folder)[1] or open_store(folder).head(MODEL_FILE) is None:
        return None
    return local_copy(folder, "The name of a model")


def _of_checkpoint(name: str) -> Source:
    info = locate(name)
    return Source(
        name,
        frozen(info.config),
        info.step,
        {path: leaf.shape for path, leaf in info.leaves.items()},
        functools.partial(read_evaluated, info),
    )
