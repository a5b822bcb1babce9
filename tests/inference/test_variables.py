"""Stored variables with which nothing can be computed."""

import dataclasses
import re

import numpy as np
import pytest

import clac_jax
from clac_jax.api import LoadError
from clac_jax.inference.named import open_source


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_with_weights_that_are_not_finite_is_refused(tested, value):
    source = open_source(tested)
    path = next(path for path in source.shapes if path.startswith("params/graph_encoder"))

    def read(paths):
        arrays = {name: np.array(array) for name, array in source.read(paths).items()}
        arrays[path].flat[-1] = value
        return arrays

    with pytest.raises(LoadError, match=f"{re.escape(path)} of {re.escape(tested)} has values"):
        clac_jax.Model(dataclasses.replace(source, read=read))


def test_a_model_with_a_negative_variance_is_refused(tested):
    source = open_source(tested)
    paths = [path for path in source.shapes if re.fullmatch("batch_stats/.*/var", path)]

    def read(names):
        arrays = {name: np.array(array) for name, array in source.read(names).items()}
        arrays[paths[0]].flat[0] = -0.1
        return arrays

    with pytest.raises(LoadError, match=f"{re.escape(paths[0])} .* has negative variances"):
        clac_jax.Model(dataclasses.replace(source, read=read))
