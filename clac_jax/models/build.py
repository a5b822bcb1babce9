"""Builds the model and its initial variables from a config."""

from __future__ import annotations

import contextlib
import hashlib
import json
from typing import Any

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import ml_collections
from jaxtyping import Key

from clac_jax.files.user_cache import code_hash, kept_file, read_checked, write_checked
from clac_jax.input_pipeline.batch import Batch
from clac_jax.models.clac import CLaC
from clac_jax.models.encoders import (
    build_graph_encoder,
    build_text_encoder,
    with_pretrained_graph_encoder,
)
from clac_jax.models.losses import LOSSES
from clac_jax.models.losses.settings import PairLoss
from clac_jax.models.settings import ModelError, kind_named, settings_of
from clac_jax.models.text.narrowing import with_fewer_units
from clac_jax.models.text.pretrained import load_huggingface

_CODE, _LIBRARIES = ("models", "crystals"), ("jax", "flax", "numpy")


def pair_loss_of(options: ml_collections.ConfigDict) -> PairLoss:
    """The contrastive loss selected by the config group `loss`.

    Raises:
        ModelError: no loss has that name.
    """
    return settings_of(kind_named(LOSSES, options.name, "loss.name"), options)


def build_model(config: ml_collections.ConfigDict, vocab_size: int | None = None) -> CLaC:
    """The model that a config describes.

    Args:
        config: the run's config.
        vocab_size: vocabulary size of the tokenizer, for a text encoder without pretrained weights.

    Raises:
        ModelError: a name is unknown, or sizes or options are incompatible.
        PretrainedError: the folder of pretrained weights cannot be used.
    """
    heads = pair_loss_of(config.loss).heads
    if config.structure_weight > 0 and heads.cross_critic != "dot":
        raise ModelError(
            f"structure_weight is {config.structure_weight:g}, but with loss.name="
            f"{config.loss.name} crystals and texts have no joint space to predict structure from. "
            "Set it to 0, or choose another loss."
        )
    return CLaC(
        graph_encoder=build_graph_encoder(config),
        text_encoder=build_text_encoder(config, vocab_size),
        projection_dim=config.projection_dim,
        use_visual=config.use_visual_intramodal_loss,
        use_textual=config.use_textual_intramodal_loss,
        logit_scale_init=config.logit_scale_init,
        logit_bias_init=heads.bias_init if heads.has_bias else None,
        cross_critic=heads.cross_critic,
        intra_critic=heads.intra_critic,
        crystal_prior=heads.crystal_prior,
        text_prior=heads.text_prior,
        predicts_structure=config.structure_weight > 0,
    )


def _merged(params: dict[str, Any], loaded: dict[str, Any]) -> dict[str, Any]:
    """The parameters with those that are loaded; what only the model has, adapters say, stays."""
    return params | {
        name: _merged(params[name], value) if isinstance(value, dict) else value
        for name, value in loaded.items()
    }


def abstract_variables(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """Shapes and types of the result of `init_variables`; nothing is computed.

    They are kept in the user's cache, since tracing a model takes long. Flax compares the shape of
    each parameter with that of its initial value whenever the model is called, so wrong ones could
    not stay unnoticed.
    """
    leaves, structure = jax.tree.flatten(batch)
    facts = [repr(model), str(structure), *(f"{leaf.shape} {leaf.dtype}" for leaf in leaves)]
    facts += [str(jax.config.values["jax_enable_x64"]), code_hash(_CODE, _LIBRARIES)]
    digest = hashlib.sha256("\n".join(facts).encode("utf-8", "surrogateescape")).hexdigest()
    path = kept_file("parameters", f"{digest[:32]}.json")
    if (content := read_checked(path)) is not None:
        return _from_json(content)
    key = jax.random.PRNGKey(0)
    shapes = dict(jax.eval_shape(lambda: model.init(key, batch, train=True)))
    if " at 0x" not in facts[0] and _from_json(_to_json(shapes)) == shapes:
        with contextlib.suppress(OSError):  # the next start traces again
            write_checked(path, _to_json(shapes))
    return shapes


def _to_json(shapes: dict[str, Any]) -> bytes:
    flat = flax.traverse_util.flatten_dict(shapes, keep_empty_nodes=False)
    rows = [[[*path], list(leaf.shape), leaf.dtype.name] for path, leaf in flat.items()]
    return json.dumps(rows).encode()


def _from_json(content: bytes) -> dict[str, Any]:
    flat = {
        tuple(path): jax.ShapeDtypeStruct(tuple(shape), dtype)
        for path, shape, dtype in json.loads(content)
    }
    return dict(flax.traverse_util.unflatten_dict(flat))


def init_variables(
    model: CLaC,
    config: ml_collections.ConfigDict,
    batch: Batch,
    key: Key[jax.Array, ""] | None = None,
) -> dict[str, Any]:
    """Random weights, except that pretrained encoders replace the random ones.

    Args:
        model: model from `build_model`.
        config: the run's config.
        batch: a training batch of any size, with the views and labels of training.
        key: PRNG key; derived from `config.seed` by default.

    Returns:
        {"params": ..., "batch_stats": ...} of float32 arrays.

    Raises:
        ModelError: the batch lacks a view or labels that training needs, so parameters would be
            missing.
    """
    views = batch.graphs.num_views, batch.texts.num_views
    needed = 1 + model.use_visual, 1 + model.use_textual
    if views[0] < needed[0] or views[1] < needed[1]:
        raise ModelError(
            f"A batch with {views[0]} crystal and {views[1]} text views cannot initialize a model "
            f"that trains on {needed[0]} and {needed[1]}. Use a training batch."
        )
    if config.lm_weight > 0 and batch.texts.labels is None:
        raise ModelError(
            "lm_weight > 0 needs token labels, and the batch has none. Use a training batch."
        )
    key = jax.random.key(config.seed) if key is None else key
    variables = dict(jax.jit(lambda k: model.init(k, batch, train=True))(key))
    params = with_pretrained_graph_encoder(variables["params"], config)
    if config.text_encoder.pretrained is not None:
        loaded = load_huggingface(config.text_encoder.pretrained).params
        if config.text_encoder.feed_forward_units is not None:
            loaded = with_fewer_units(loaded, config.text_encoder.feed_forward_units)
        text = params["text_encoder"]
        used = {name: value for name, value in loaded.items() if name in text}
        params = {**params, "text_encoder": _merged(text, used)}
    return variables | {"params": jax.tree.map(jnp.asarray, params)}
