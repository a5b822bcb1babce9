"""LoRA (arXiv:2106.09685): linear maps whose frozen weights are adapted by a product of two.

With a kernel W, the map is x W + alpha / rank * (x A) B. A starts at random and B at zero, so that
before the first step the function is that of W.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
from flax.linen.dtypes import promote_dtype

_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # at most fan_in ** -0.5


class Lora(NamedTuple):
    """Which linear maps of a text encoder are adapted, and how.

    Attributes:
        rank: width between A and B.
        alpha: what they add is multiplied by alpha / rank.
        targets: names of the linear maps.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...]

    @property
    def scale(self) -> float:
        """The factor of what the matrices add."""
        return self.alpha / self.rank


class LoraDense(nn.Dense):
    """A linear map with an adapter; its kernel and bias have the names and values of `nn.Dense`.

    Attributes:
        rank: width between A and B.
        scale: factor of what they add.
    """

    rank: int = 1
    scale: float = 1.0

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """(..., F) -> (..., features)."""
        result: jax.Array = super().__call__(inputs)
        a = self.param("lora_a", _INIT, (inputs.shape[-1], self.rank), self.param_dtype)
        shape = (self.rank, self.features)
        b = self.param("lora_b", nn.initializers.zeros, shape, self.param_dtype)
        x, a, b = promote_dtype(inputs, a, b, dtype=self.dtype)
        adapted: jax.Array = result + self.scale * ((x @ a) @ b)
        return adapted
