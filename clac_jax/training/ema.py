"""The exponential moving average of the trained parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import optax


@dataclass(frozen=True)
class Averaging:
    """The rule of the average: after a step it is d * average + (1 - d) * parameters.

    Attributes:
        decay: the weight d of the average so far.
        warmup: whether d starts lower: at most (1 + n) / (10 + n) in step n, from 0, so that the
            average soon forgets the first parameters.
    """

    decay: float
    warmup: bool = True

    @classmethod
    def from_config(cls, options: ml_collections.ConfigDict) -> Averaging | None:
        """The averaging that the group `config.ema` describes; None if its decay is 0."""
        return cls(options.decay, options.warmup) if options.decay else None

    def begin(self, params: Any, trainable: Any) -> Any:
        """The average before the first step: a copy of the trained parameters.

        Args:
            params: the parameters.
            trainable: a tree of booleans like the parameters; where False, nothing is averaged.
        """
        return jax.tree.map(
            # A copy: a step cannot reuse the memory of one array for two.
            lambda leaf, train: jnp.array(leaf) if train else optax.MaskedNode(),
            params,
            trainable,
        )

    def update(self, average: Any, params: Any, step: jax.Array) -> Any:
        """The average after a step.

        Args:
            average: the average before it.
            params: the parameters after it.
            step: (), number of steps before it.
        """
        decay = jnp.float32(self.decay)
        if self.warmup:
            decay = jnp.minimum(decay, (1 + step) / (10 + step))
        trained = jax.tree.map(
            lambda mean, leaf: mean if _is_masked(mean) else leaf,
            average,
            params,
            is_leaf=_is_masked,
        )
        return optax.incremental_update(trained, average, 1 - decay)


def averaged_params(average: Any, params: Any) -> Any:
    """The parameters, with the average in place of those that are trained."""
    return jax.tree.map(
        lambda mean, leaf: leaf if _is_masked(mean) else mean, average, params, is_leaf=_is_masked
    )


def _is_masked(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)
