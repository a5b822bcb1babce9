"""A tower with a linear map of its vectors, small and grown."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.models.anatomy import Anatomy, dense_axes
from clac_jax.models.text.settings import TextEncoderSettings
from clac_jax.surgery.growth import Old, grown, plan
from helpers.grown_models import like, named


class _WithHead(nn.Module):
    """An encoder and a linear map of its vectors, as the anatomy of a model joins them."""

    encoder: nn.Module

    @nn.compact
    def __call__(self, inputs):
        found = self.encoder(inputs)
        vectors = nn.Dense(3, name="head")(getattr(found, "features", found))
        lm_loss = getattr(found, "lm_loss_sum", None)
        return {"vectors": vectors} | ({} if lm_loss is None else {"lm": lm_loss})


@dataclasses.dataclass(frozen=True)
class Tower:
    """An encoder of some settings with a head.

    Attributes:
        settings: settings of a graph or a text encoder.
        feature: as for `build` of a text encoder.
        with_lm_loss: as for `build` of a text encoder.
        dtype: dtype of the arithmetic; None: that of the parameters.
    """

    settings: Any
    feature: str = "mean"
    with_lm_loss: bool = False
    dtype: str | None = None

    @property
    def is_text(self):
        return isinstance(self.settings, TextEncoderSettings)

    @property
    def module(self):
        if not self.is_text:
            return _WithHead(self.settings.build(self.dtype))
        settings = dataclasses.replace(self.settings, compute_dtype=self.dtype)
        return _WithHead(settings.build(self.feature, self.with_lm_loss))

    @property
    def anatomy(self):
        arguments = (self.feature, self.with_lm_loss) if self.is_text else ()
        encoder = self.settings.anatomy(*arguments).within("encoder")
        return encoder.joined(Anatomy(dense_axes("head", f"{encoder.output} -> _")))

    def inputs(self, batch):
        return batch.texts if self.is_text else batch.graphs

    def larger(self, **sizes):
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **sizes))

    def in_dtype(self, dtype):
        return dataclasses.replace(self, dtype=dtype)

    def shapes(self, batch):
        return jax.eval_shape(self.module.init, jax.random.key(0), self.inputs(batch))

    def variables(self, batch, seed, dtype=np.float32):
        """Random variables, none of them 0 or 1."""
        rng = np.random.default_rng(seed)

        def value(path, leaf):
            is_positive = path[-1].key in ("scale", "var")
            deviation = 0.2 if leaf.ndim == 1 else 1.5 * max(1, leaf.shape[0]) ** -0.5
            return rng.normal(1.0 * is_positive, deviation, leaf.shape).astype(dtype)

        return jax.tree_util.tree_map_with_path(value, self.shapes(batch))

    def grow(self, small, batch, variables):
        """(the entries of the plan, this tower's variables from those of a smaller one)."""
        saved = named(variables)
        fresh = named(self.variables(batch, 1, next(iter(saved.values())).dtype))
        shapes = ({name: array.shape for name, array in some.items()} for some in (saved, fresh))
        entries = plan(*shapes, self.anatomy, Old(small.anatomy.sizes))
        return entries, like(self.shapes(batch), grown(entries, saved, fresh))

    def values(self, batch, variables):
        """The results of the tower, in evaluation."""
        found = jax.jit(self.module.apply)(variables, self.inputs(batch))
        return {name: np.asarray(value) for name, value in found.items()}

    def gradients(self, batch, variables):
        """Name -> gradient of a function of everything that it computes."""

        def total(params, others):
            found = self.module.apply({**others, "params": params}, self.inputs(batch))
            # The sine of a large number would show how it is rounded.
            sizes = {name: jax.lax.stop_gradient(jnp.abs(x).max()) for name, x in found.items()}
            return sum(jnp.sum(jnp.sin(3 * x / sizes[name])) for name, x in found.items())

        return named({"params": jax.jit(jax.grad(total))(variables["params"], variables)})
