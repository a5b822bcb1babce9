"""Rematerialisation: blocks whose insides are computed again in the backward pass, not kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp

# An array, or a tuple of them.
State = TypeVar("State")


def remat_block(module: nn.Module, block: Callable[[State], State]) -> Callable[[State], State]:
    """`block`, of which only the input is kept for the backward pass where `module.remat` is set.

    Args:
        module: with a field `remat`, whose compact `__call__` this is called in. The block's
            submodules become its own, under the same names as without.
        block: a state -> one of the same shapes and types. It may make submodules, update their
            batch statistics and read other arrays from around it, which are kept.
    """
    # Nothing is differentiated while parameters are made.
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
        # XLA for CPUs ignores the barriers by which `remat` puts the second computation off until
        # its gradient is there, and so keeps all after all. What stands in a branch it leaves
        # there. It cannot know that no activation is the largest number there is.
        first = jnp.ravel(jax.tree.leaves(x)[0])[0]
        return nn.cond(first != jnp.finfo(first.dtype).max, again, never, module, x)

    if jax.default_backend() == "cpu":
        return apart
    return lambda x: again(module, x)
