"""Trained models for notebooks and scripts: `clac_jax.load(WHAT)`.

    model = clac_jax.load("outputs/base@best")
    crystals = model.embed_crystals(["a.cif", "b.cif"])
    scores = model.similarity(["a wide-gap perovskite"], ["a.cif", "b.cif"])

No data set is needed, and nothing is written.
"""

from __future__ import annotations

import os

from clac_jax.inference.errors import InputError, LoadError
from clac_jax.inference.model import Model
from clac_jax.inference.source import open_source

__all__ = ["InputError", "LoadError", "Model", "load"]


def load(what: str | os.PathLike[str]) -> Model:
    """Loads a trained model.

    Args:
        what: a run's workdir (its newest checkpoint), optionally with the suffix `@best`, `@last`,
            `@step=5000` or `@epoch=49`, as in `config.resume_from`; a checkpoint's folder; or a
            model exported by `clac-jax ckpt export`: its folder or its `model.safetensors`.

    Raises:
        CheckpointNotFoundError: no checkpoint has that name.
        DamagedCheckpointError: a file of the checkpoint differs from what was written.
        ExportError: an exported model cannot be read.
        PretrainedError: the folder or package that provides the run's tokenizer does not exist.
        LoadError: the checkpoint does not hold the model that its config describes.
    """
    return Model(open_source(what))
