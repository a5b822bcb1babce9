"""Trained models for notebooks and scripts: `clac_jax.load(WHAT)`.

    model = clac_jax.load("outputs/base@best")
    crystals = model.embed_crystals(["a.cif", "b.cif"])
    scores = model.similarity(["a wide-gap perovskite"], ["a.cif", "b.cif"])

No data set is needed, and nothing is written.
"""

from __future__ import annotations

import os

from clac_jax.inference.adapters import with_adapter
from clac_jax.inference.errors import InputError, LoadError, PublishedError
from clac_jax.inference.model import Model
from clac_jax.inference.named import open_source

__all__ = ["InputError", "LoadError", "Model", "PublishedError", "load"]


def load(what: str | os.PathLike[str], adapter: str | os.PathLike[str] | None = None) -> Model:
    """Loads a trained model.

    Args:
        what: one of

            - a run's workdir (its newest checkpoint), or with a suffix `RUN@best`, `RUN@best=2`
              (the second best), `RUN@last`, `RUN@step=5000` or `RUN@epoch=49`, as in
              `config.resume_from`; or a checkpoint's own folder; or its URL in an object store,
              `s3://bucket/exp@best`, of which a copy is kept in the user's cache;
            - a folder written by `clac-jax publish`, or its `model.safetensors`; or its URL;
            - `hf:owner/name`, such a folder on the Hugging Face Hub: downloaded once, then read
              from the local cache; `hf:owner/name@revision` for a branch, tag or commit;
            - `mini`, the pretrained model that comes with this package. Write `./mini` for a
              folder of that name.
        adapter: a folder written by `clac-jax ckpt export --adapter`, or its URL: loads the model
            of that run, with the weights that it froze from `what`.

    Raises:
        PathError: `what` or `adapter` is not text or a path, or not a valid one.
        CheckpointNotFoundError: no checkpoint has that name.
        DamagedCheckpointError: a file of the checkpoint differs from what was written.
        PublishedError, ExportError: a file of a published model is missing, differs from what was
            published, or cannot be read.
        PretrainedError: the folder or package that provides the run's tokenizer does not exist.
        StoreError: the object store cannot be read.
        LoadError: the checkpoint does not hold the model that its config describes, or a model is
            not on the Hub; or `what` has other weights than the adapters were trained on.
        AdapterError: the adapters cannot be read.
    """
    source = open_source(what)
    return Model(source if adapter is None else with_adapter(source, adapter))
