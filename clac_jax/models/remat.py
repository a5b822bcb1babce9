"""Rematerialization: the inside of a block is recomputed in the backward pass, not stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

# An array, or a tuple of them.
State = TypeVar("State")


def remat_block(module: nn.Module, block: Callable[[State], State]) -> Callable[[State], State]:
    """`block`, storing only its input for the backward pass if `module.remat` is set.

    Args:
        module: module with a field `remat`, whose compact `__call__` calls this function. The
            block's submodules become its own, with the same names as without rematerialization.
        block: a state -> a state of the same shapes and types. It may create submodules, update
            their batch statistics and read other arrays from the enclosing scope, which are stored.
    """
    # Nothing is differentiated during initialization.
    if not module.remat or module.is_initializing():
        return block

    def inside(_: nn.Module, x: State) -> State:
        return block(x)

    def again(module: nn.Module, x: State) -> State:
        return nn.remat(inside)(module, x)

    def never(_: nn.Module, x: State) -> State:
        lost: State = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), x)
        return lost

    def apart(x: State) -> State:
        # XLA for CPUs ignores the barriers with which `remat` delays the recomputation until the
        # gradient arrives, and so would store everything after all. It does not move operations
        # out of a branch, and it cannot know that no activation equals the largest finite number.
        first = jnp.ravel(jax.tree.leaves(x)[0])[0]
        return nn.cond(first != jnp.finfo(first.dtype).max, again, never, module, x)

    if jax.default_backend() == "cpu":
        return apart
    return lambda x: again(module, x)
