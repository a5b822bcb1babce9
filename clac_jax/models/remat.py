"""Rematerialisation: blocks whose insides are computed again in the backward pass, not kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn

Result = TypeVar("Result")


def remat_block(module: nn.Module, block: Callable[..., Result]) -> Callable[..., Result]:
    """`block`, of which only the inputs are kept for the backward pass where `module.remat` is set.

    Args:
        module: with a field `remat`, whose compact `__call__` this is called in. The block's
            submodules become its own, under the same names as without.
        block: arrays -> arrays. It may make submodules, update their batch statistics and read
            other arrays from around it, which are kept.
    """
    # Nothing is differentiated while parameters are made.
    if not module.remat or module.is_initializing():
        return block

    def inside(_: nn.Module, *args: Any) -> Result:
        return block(*args)

    return functools.partial(nn.remat(inside), module)
