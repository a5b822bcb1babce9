"""Pairs of models, of which the larger one is grown from the smaller one."""

from __future__ import annotations

import functools

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.models import abstract_variables, build_model
from clac_jax.models.model_anatomy import model_anatomy
from clac_jax.surgery.growth import Old, grown, plan
from clac_jax.surgery.resizing import Scale
from helpers.small_models import random_variables

VOCABULARY = 90


def named(variables):
    """Name without the collection -> array."""
    flat = flax.traverse_util.flatten_dict(variables)
    return {"/".join(path[1:]): np.asarray(leaf) for path, leaf in flat.items()}


def like(template, arrays):
    """Variables with the structure of others."""
    paths = flax.traverse_util.flatten_dict(template)
    return flax.traverse_util.unflatten_dict({p: arrays["/".join(p[1:])] for p in paths})


def trained(model, batch, seed=0):
    """Variables that are neither zero nor one, as after a training.

    Those are large without which all texts would be alike, and all scores of perceptrons.
    """
    rng = np.random.default_rng(seed)

    def value(path, leaf):
        name = path[-1].key
        if leaf.ndim == 1:
            center = 1.0 if name in ("scale", "var") else 0.0
            drawn = rng.normal(center, 0.2, leaf.shape)
            return (np.abs(drawn) if name == "var" else drawn).astype(leaf.dtype)
        if leaf.ndim > 1:
            # Each model has other numbers, in case that one keeps those it is initialized with.
            in_critic = path[1].key.endswith("_head") and len(path) < 5
            is_large = in_critic or path[1].key.endswith(("text_encoder", "_discriminator"))
            large = 3 if is_large else 1
            return (leaf * large * rng.uniform(0.8, 1.2)).astype(leaf.dtype)
        return leaf

    return jax.tree_util.tree_map_with_path(value, random_variables(model, batch))


def heads_of(config):
    return Old(model_anatomy(config).sizes)


def grow(small, large, batch, variables, old=None):
    """(the entries of the plan, the variables of the grown model)."""
    model = build_model(large, VOCABULARY)
    template, saved = abstract_variables(model, batch), named(variables)
    fresh = named(trained(model, batch, seed=1))
    shapes = ({name: array.shape for name, array in some.items()} for some in (saved, fresh))
    entries = plan(*shapes, model_anatomy(large), old or heads_of(small))
    return entries, like(template, grown(entries, saved, fresh))


def kept_moments(entries, before, after):
    """The names of the arrays whose moments are kept, after a comparison with the gradients.

    Args:
        entries: the plan of the growth.
        before: name -> gradient in the smaller model.
        after: the same in the larger one.
    """
    kept = []
    for name, gradient in after.items():
        entry = entries.get(name)
        if entry is None or entry.source is None:
            continue
        moments = [entry.transform.of_moment(k) if entry.transform else Scale(1.0) for k in (1, 2)]
        for order, moment in enumerate(moments, start=1):
            if moment is not None:
                # A moment is a running mean of gradients, or of squares: it follows if they do.
                (expected,) = moment.apply([before[entry.source] ** order], (gradient.shape,), None)
                error = np.abs(gradient**order - expected).max()
                assert error < 3e-4 * np.abs(expected).max() + 1e-7, name
        if None not in moments:
            kept.append(name)
    return kept


@functools.cache
def _functions(model):
    def values_of(params, others, batch):
        output, updated = model.apply(
            {**others, "params": params}, batch, train=True, mutable=["batch_stats"]
        )
        values = {
            "lm": output.lm_loss_sum,
            "structure": output.structure_loss,
            "crystal_prior": output.crystal_prior,
            "text_prior": output.text_prior,
        }
        for name in ("cross", "visual", "textual"):
            pair = getattr(output, name)
            left, right = (x.reshape(-1, x.shape[-1]) for x in (pair.left, pair.right))
            values[name] = pair.scores(left, right)
        values = {name: value for name, value in values.items() if value is not None}
        return sum(jnp.sum(jnp.sin(value)) for value in values.values()), (values, updated)

    return jax.jit(values_of), jax.jit(jax.value_and_grad(values_of, has_aux=True))


def scored(config, variables, batch):
    """(scores and losses in training, the batch statistics after it)."""
    function, _ = _functions(build_model(config, VOCABULARY))
    _, (values, updated) = function(variables["params"], variables, batch)
    return values, named({"batch_stats": updated.get("batch_stats", {})})


def gradients(config, variables, batch):
    """Name -> gradient of a sum of all scores and losses."""
    _, function = _functions(build_model(config, VOCABULARY))
    _, found = function(variables["params"], variables, batch)
    return named({"params": found})
