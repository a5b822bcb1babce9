"""Linear maps, norms, embeddings and activations, as in pretrained language models."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
from jaxtyping import Float

from clac_jax.models.text.lora import LoraDense
from clac_jax.models.text.settings import TextEncoderSettings


def layer_norm(settings: TextEncoderSettings, name: str, affine: bool = True) -> nn.LayerNorm:
    """Layer norm with PyTorch's arithmetic; `affine` adds a scale and a bias."""
    return nn.LayerNorm(
        epsilon=settings.layer_norm_eps,
        use_scale=affine,
        use_bias=affine,
        use_fast_variance=False,
        dtype=settings.compute_dtype,
        name=name,
    )


def dense(
    settings: TextEncoderSettings, features: int, name: str, use_bias: bool = True
) -> nn.Dense:
    """A linear map, initialized as in these models."""
    init = nn.initializers.normal(settings.initializer_range)
    return nn.Dense(
        features, use_bias=use_bias, kernel_init=init, dtype=settings.compute_dtype, name=name
    )


def adapted_dense(
    settings: TextEncoderSettings, features: int, name: str, use_bias: bool = True
) -> nn.Dense:
    """A linear map of a layer, with an adapter if `settings.lora` targets it.

    The target is the last word of its name: "query", or "output" of "layer_3_output".
    """
    lora = settings.lora
    if lora is None or name.rpartition("_")[2] not in lora.targets:
        return dense(settings, features, name, use_bias)
    return LoraDense(
        features,
        use_bias=use_bias,
        kernel_init=nn.initializers.normal(settings.initializer_range),
        dtype=settings.compute_dtype,
        name=name,
        rank=lora.rank,
        scale=lora.scale,
    )


def embed(settings: TextEncoderSettings, count: int, features: int, name: str) -> nn.Embed:
    """An embedding table, initialized as in these models."""
    init = nn.initializers.normal(settings.initializer_range)
    return nn.Embed(count, features, embedding_init=init, dtype=settings.compute_dtype, name=name)


def exact_gelu(x: Float[jax.Array, "*shape"]) -> Float[jax.Array, "*shape"]:
    """GELU by erf, as PyTorch computes it; the erfc in jax.nn.gelu takes twice as long."""
    return 0.5 * x * (1 + jax.lax.erf(x * 0.5**0.5))


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": exact_gelu,
    "gelu_new": lambda x: jax.nn.gelu(x, approximate=True),
}
