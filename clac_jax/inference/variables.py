"""The variables that a model needs, checked against the model of its config."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
from flax import traverse_util

from clac_jax.inference.batches import NO_CRYSTAL, NO_TEXT, shape_of
from clac_jax.inference.errors import LoadError
from clac_jax.inference.source import Source
from clac_jax.input_pipeline.batch import collate
from clac_jax.input_pipeline.example import ExampleViews


def read_variables(model: nn.Module, source: Source) -> dict[str, Any]:
    """The variables needed for evaluation, without heads that are used only in training.

    Raises:
        MissingArraysError, LoadError: some are missing from the checkpoint, or differ in shape.
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
    return dict(traverse_util.unflatten_dict(arrays, sep="/"))
