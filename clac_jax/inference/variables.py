"""The variables that a model needs, checked against the model of its config."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax import traverse_util

from clac_jax.inference.batches import NO_CRYSTAL, NO_TEXT, shape_of
from clac_jax.inference.errors import LoadError
from clac_jax.inference.source import Source
from clac_jax.input_pipeline.batch import collate
from clac_jax.input_pipeline.example import ExampleViews


def read_variables(model: nn.Module, source: Source) -> dict[str, Any]:
    """The variables needed for evaluation, without heads that are used only in training.

    Raises:
        MissingArraysError, LoadError: some are missing from the checkpoint, differ in shape, are
            not finite, or are negative variances.
    """
    example = [ExampleViews(0, (NO_CRYSTAL,), (NO_TEXT,))]
    batch = collate(example, shape_of([example], 1))
    key = jax.random.PRNGKey(0)
    abstract = jax.eval_shape(lambda: model.init(key, batch, train=False))
    needed = traverse_util.flatten_dict(dict(abstract), sep="/")
    for path, leaf in needed.items():
        if path in source.shapes and tuple(source.shapes[path]) != leaf.shape:
            raise LoadError(
                f"{path} has the shape {tuple(source.shapes[path])} in the checkpoint, and "
                f"{leaf.shape} in the model of its config. Restore the pretrained folders that "
                "the run was trained with."
            )
    arrays = dict(source.read(list(needed)))
    for path, array in arrays.items():
        _check_values(path, np.asarray(array), source.name)
    return dict(traverse_util.unflatten_dict(arrays, sep="/"))


def _check_values(path: str, array: np.ndarray, name: str) -> None:
    """Refuses an array with which every result would be NaN.

    Raises:
        LoadError: it is not finite, or a negative variance.
    """
    if not np.isfinite(array).all():
        what = "has values that are NaN or infinite"
    elif path.startswith("batch_stats/") and path.endswith("/var") and (array < 0).any():
        what = "has negative variances"
    else:
        return
    raise LoadError(f"{path} of {name} {what}. Load an earlier checkpoint, or train it again.")
