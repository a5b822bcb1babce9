"""Pretrained text encoders with narrower perceptrons, which are most of a layer's cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def with_fewer_units(params: Mapping[str, Any], units: int) -> dict[str, Any]:
    """Keeps some hidden units of each layer's perceptron: those with the largest weights.

    Args:
        params: parameters of an encoder whose perceptrons are `layer_K_intermediate` (to the hidden
            units) and `layer_K_output`.
        units: number of hidden units that are kept, in their order; at most those that there are.

    Returns:
        The parameters of the narrower encoder; a unit's size is the product of the norms of its
        weights to and from it.
    """
    narrow = dict(params)
    for name in params:
        if not name.endswith("_intermediate"):
            continue
        output = name.removesuffix("_intermediate") + "_output"
        into, out = params[name]["kernel"], params[output]["kernel"]
        sizes = np.linalg.norm(into, axis=0) * np.linalg.norm(out, axis=1)
        kept = np.sort(np.argsort(-sizes, kind="stable")[:units])
        narrow[name] = {key: np.take(value, kept, axis=-1) for key, value in params[name].items()}
        narrow[output] = {**params[output], "kernel": np.take(out, kept, axis=0)}
    return narrow
