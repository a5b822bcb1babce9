"""From a config to the model and its first variables."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from clac_jax.errors import UserError
from clac_jax.files.huggingface import resolve_folder
from clac_jax.input_pipeline.batch import Batch
from clac_jax.models.clac import CLaC
from clac_jax.models.graph.cgcnn import CGCNN
from clac_jax.models.graph.composition import CompositionEncoder, WithComposition
from clac_jax.models.graph.orb import Orb
from clac_jax.models.graph.orb_weights import load_orb
from clac_jax.models.graph.painn import PaiNN
from clac_jax.models.text.bert import Bert, BertConfig
from clac_jax.models.text.decoder import Decoder, DecoderConfig
from clac_jax.models.text.gemma import Gemma, GemmaConfig
from clac_jax.models.text.pretrained import TextConfig, load_huggingface, load_huggingface_config
from clac_jax.typing import Array

# The scores between crystals and texts, and between two views of either.
CRITICS = {
    "dot": ("dot", "dot"),
    "concat": ("concat", "concat"),
    "condot": ("concat", "dot"),
    "dotcon": ("dot", "concat"),
}


class ModelError(UserError, ValueError):
    """A config asks for a model that does not exist or does not fit its weights."""


def build_graph_encoder(config: ml_collections.ConfigDict) -> nn.Module:
    """The graph encoder of `config.graph_encoder`.

    Raises:
        ModelError: no encoder has that name.
    """
    options, dtype = config.graph_encoder, compute_dtype(config)
    # CompositionEncoder has no blocks: it keeps a few vectors per crystal.
    remat = "graph_encoder" in config.remat
    composition = CompositionEncoder(
        num_features=options.num_features,
        out_dim=options.num_features if options.name == "orb" else options.out_dim,
    )
    if options.name == "composition":
        return composition
    if options.name == "painn":
        encoder: nn.Module = PaiNN(
            num_features=options.num_features,
            num_interactions=options.num_interactions,
            num_rbf=options.num_rbf,
            cutoff=options.cutoff,
            out_dim=options.out_dim,
            dtype=dtype,
            remat=remat,
        )
    elif options.name == "cgcnn":
        encoder = CGCNN(
            atom_fea_len=options.atom_fea_len,
            nbr_fea_len=options.nbr_fea_len,
            n_conv=options.n_conv,
            h_fea_len=options.h_fea_len,
            n_h=options.n_h,
            out_dim=options.out_dim,
            dtype=dtype,
            remat=remat,
        )
    elif options.name == "orb":
        encoder = _orb(options, dtype, remat)
    else:
        raise ModelError(
            f"graph_encoder.name = {options.name!r} is unknown. "
            "Use painn, cgcnn, orb or composition."
        )
    return WithComposition(encoder, composition) if options.add_composition else encoder


def _orb(options: ml_collections.ConfigDict, dtype: str | None = None, remat: bool = False) -> Orb:
    return Orb(
        features=options.num_features,
        hidden=options.hidden_features,
        num_interactions=options.num_interactions,
        cutoff=options.graph_cutoff,
        dtype=dtype,
        remat=remat,
    )


def compute_dtype(config: ml_collections.ConfigDict) -> str | None:
    """The type of the towers' arithmetic; None: that of their parameters."""
    return None if config.precision == "float32" else config.precision


def text_encoder_config(
    config: ml_collections.ConfigDict, vocab_size: int | None = None
) -> TextConfig:
    """Sizes of the text encoder: those of the pretrained weights, or of the config.

    Args:
        config: of the run.
        vocab_size: of the tokenizer, for an encoder without pretrained weights.

    Raises:
        ModelError: the encoder has too few positions for `max_length`, too few words or layers.
        PretrainedError: the folder of pretrained weights cannot be used.
    """
    encoder = config.text_encoder
    if encoder.pretrained is not None:
        sizes = load_huggingface_config(resolve_folder(encoder.pretrained))
    else:
        sizes = _random_text_config(dict(encoder.config), vocab_size)
    if encoder.max_length > sizes.max_position_embeddings:
        raise ModelError(
            f"text_encoder.max_length = {encoder.max_length} is more than the encoder's "
            f"{sizes.max_position_embeddings} positions. Lower it or take another encoder."
        )
    if vocab_size is not None and vocab_size > sizes.vocab_size:
        raise ModelError(
            f"The tokenizer has {vocab_size} tokens and the text encoder {sizes.vocab_size}. "
            "Take the tokenizer that belongs to the pretrained weights."
        )
    if encoder.num_layers is not None:
        if encoder.num_layers > sizes.num_hidden_layers:
            raise ModelError(
                f"text_encoder.num_layers = {encoder.num_layers} is more than the encoder "
                f"has, {sizes.num_hidden_layers}. Lower it, or leave it out for all of them."
            )
        sizes = dataclasses.replace(sizes, num_hidden_layers=encoder.num_layers)
    if encoder.dropout is not None:
        sizes = sizes.with_dropout(encoder.dropout)
    return dataclasses.replace(sizes, compute_dtype=compute_dtype(config))


def _random_text_config(values: dict[str, Any], vocab_size: int | None) -> TextConfig:
    kind = values.pop("model_type")
    if vocab_size is not None:
        values["vocab_size"] = vocab_size
    try:
        if kind == "bert":
            return BertConfig(**values)
        if kind == "opt":
            return DecoderConfig(**values)
        if kind == "gpt2":
            return DecoderConfig(**values, activation="gelu_new", embedding_dropout_prob=0.1)
        if kind == "gemma3_text":
            return GemmaConfig(**values)
    except ValueError as error:
        raise ModelError(f"text_encoder.config cannot be used: {error}") from error
    raise ModelError(
        f"text_encoder.config.model_type = {kind!r} is unknown. Use bert, opt, gpt2 or gemma3_text."
    )


def build_text_encoder(
    config: ml_collections.ConfigDict, vocab_size: int | None = None
) -> Bert | Decoder | Gemma:
    """The text encoder of `config.text_encoder`; arguments and errors of `text_encoder_config`."""
    sizes = text_encoder_config(config, vocab_size)
    feature, with_lm = config.text_encoder.feature, config.lm_weight > 0
    remat = "text_encoder" in config.remat
    if isinstance(sizes, BertConfig):
        return Bert(sizes, feature=feature, with_lm_head=with_lm, remat=remat)
    if isinstance(sizes, GemmaConfig):
        return Gemma(sizes, feature=feature, with_lm_loss=with_lm, remat=remat)
    return Decoder(sizes, feature=feature, with_lm_loss=with_lm, remat=remat)


def build_model(config: ml_collections.ConfigDict, vocab_size: int | None = None) -> CLaC:
    """The model that a config describes.

    Args:
        config: of the run.
        vocab_size: of the tokenizer, for a text encoder without pretrained weights.

    Raises:
        ModelError: a name is unknown, or sizes do not fit each other.
        PretrainedError: the folder of pretrained weights cannot be used.
    """
    loss = config.loss
    cross_critic, intra_critic = CRITICS[loss.critic if loss.name == "jsd" else "dot"]
    return CLaC(
        graph_encoder=build_graph_encoder(config),
        text_encoder=build_text_encoder(config, vocab_size),
        projection_dim=config.projection_dim,
        use_visual=config.use_visual_intramodal_loss,
        use_textual=config.use_textual_intramodal_loss,
        logit_scale_init=config.logit_scale_init,
        logit_bias_init=loss.logit_bias_init if loss.name == "siglip" else None,
        cross_critic=cross_critic,
        intra_critic=intra_critic,
        crystal_prior=loss.name == "jsd" and loss.crystal_prior,
        text_prior=loss.name == "jsd" and loss.text_prior,
    )


def abstract_variables(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """What `init_variables` returns, only as shapes and types; nothing is computed or read."""
    key = jax.random.PRNGKey(0)
    return dict(jax.eval_shape(lambda: model.init(key, batch, train=True)))


def init_variables(
    model: CLaC, config: ml_collections.ConfigDict, batch: Batch, key: Array | None = None
) -> dict[str, Any]:
    """Random weights, with the pretrained encoders in place of the random ones.

    Args:
        model: from build_model.
        config: of the run.
        batch: a training batch of any size, with the views and labels of training.
        key: PRNG key; that of `config.seed` by default.

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
    key = jax.random.PRNGKey(config.seed) if key is None else key
    variables = dict(jax.jit(lambda k: model.init(k, batch, train=True))(key))
    params = with_pretrained_graph_encoder(variables["params"], config)
    if config.text_encoder.pretrained is not None:
        loaded = load_huggingface(config.text_encoder.pretrained)
        text = dict(params["text_encoder"])
        text.update({name: value for name, value in loaded.params.items() if name in text})
        params = {**params, "text_encoder": text}
    return variables | {"params": jax.tree.map(jnp.asarray, params)}


def with_pretrained_graph_encoder(
    params: dict[str, Any], config: ml_collections.ConfigDict
) -> dict[str, Any]:
    """The parameters of a model, its graph encoder's from the file that the config names, if any.

    Raises:
        PretrainedError: the file holds other weights.
        TorchFileError: the file cannot be read.
    """
    options = config.graph_encoder
    if options.pretrained is None:
        return params
    loaded = jax.tree.map(jnp.asarray, load_orb(options.pretrained, _orb(options)))
    if options.add_composition:
        loaded = {**params["graph_encoder"], "encoder": loaded}
    return {**params, "graph_encoder": loaded}
