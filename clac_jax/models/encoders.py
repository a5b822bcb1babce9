"""Builds the two encoders of a config and describes what they need from the data."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import ml_collections

from clac_jax.errors import counted
from clac_jax.files.huggingface import resolve_folder
from clac_jax.input_pipeline.needs import EncoderNeeds, TextFacts
from clac_jax.models.graph import GRAPH_ENCODERS
from clac_jax.models.graph.composition import CompositionSettings, WithComposition
from clac_jax.models.graph.descriptors import (
    DescriptorEncoder,
    DescriptorSettings,
    WithDescriptors,
)
from clac_jax.models.graph.settings import GraphEncoderSettings
from clac_jax.models.settings import ModelError, kind_named, settings_of
from clac_jax.models.text import TEXT_ENCODERS
from clac_jax.models.text.lora import Lora
from clac_jax.models.text.pretrained import load_huggingface_config, text_kind_of
from clac_jax.models.text.settings import TextEncoderSettings


def graph_settings(options: ml_collections.ConfigDict) -> GraphEncoderSettings:
    """The settings of the encoder selected by the config group `graph_encoder`.

    Raises:
        ModelError: no encoder has that name.
    """
    kind = kind_named(GRAPH_ENCODERS, options.name, "graph_encoder.name")
    return settings_of(kind, options)


def build_graph_encoder(config: ml_collections.ConfigDict) -> nn.Module:
    """The graph encoder of `config.graph_encoder`.

    Raises:
        ModelError: no encoder has that name.
    """
    settings = graph_settings(config.graph_encoder)
    encoder = settings.build(compute_dtype(config), "graph_encoder" in config.remat)
    if config.graph_encoder.add_composition and not settings.sees_composition:
        added = settings_of(CompositionSettings, config.graph_encoder)
        composition = dataclasses.replace(added, out_dim=settings.width).build()
        encoder = WithComposition(encoder, composition)
    if config.graph_encoder.add_descriptors:
        described = DescriptorEncoder(DescriptorSettings(out_dim=settings.width))
        encoder = WithDescriptors(encoder, described)
    return encoder


def with_pretrained_graph_encoder(
    params: dict[str, Any], config: ml_collections.ConfigDict
) -> dict[str, Any]:
    """Model parameters in which the graph encoder's come from the config's file, if it names one.

    Raises:
        PretrainedError: the file holds different weights.
        TorchFileError: the file cannot be read.
    """
    options = config.graph_encoder
    if options.pretrained is None:
        return params
    settings = graph_settings(options)
    loaded = jax.tree.map(jnp.asarray, settings.pretrained_params(options.pretrained))
    has_composition = options.add_composition and not settings.sees_composition
    depth = has_composition + options.add_descriptors
    return {**params, "graph_encoder": _with_innermost(params["graph_encoder"], loaded, depth)}


def _with_innermost(params: dict[str, Any], loaded: dict[str, Any], depth: int) -> dict[str, Any]:
    """The parameters of an encoder inside `depth` others, with that one replaced."""
    if not depth:
        return loaded
    return {**params, "encoder": _with_innermost(params["encoder"], loaded, depth - 1)}


def compute_dtype(config: ml_collections.ConfigDict) -> str | None:
    """The dtype of the towers' arithmetic; None: the dtype of their parameters."""
    return None if config.precision == "float32" else config.precision


def text_kind(options: ml_collections.ConfigDict) -> type[TextEncoderSettings]:
    """The kind of text encoder selected by the config group `text_encoder`.

    Raises:
        ModelError: no encoder has that name.
        PretrainedError: the config.json of its pretrained weights cannot be used.
    """
    if options.pretrained is not None:
        return text_kind_of(resolve_folder(options.pretrained))
    return kind_named(TEXT_ENCODERS, options.config.model_type, "text_encoder.config.model_type")


def text_settings(
    config: ml_collections.ConfigDict, vocab_size: int | None = None
) -> TextEncoderSettings:
    """The text encoder's settings, from its pretrained weights or from the config.

    Args:
        config: the run's config.
        vocab_size: vocabulary size of the tokenizer, for an encoder without pretrained weights.

    Raises:
        ModelError: the encoder has too few positions for `max_length`, too few words or layers.
        PretrainedError: the folder of pretrained weights cannot be used.
    """
    options = config.text_encoder
    if options.pretrained is not None:
        settings = load_huggingface_config(resolve_folder(options.pretrained))
    else:
        try:
            values = {**options.config, "vocab_size": vocab_size}
            settings = settings_of(text_kind(options), values)
        except ModelError:
            raise
        except ValueError as error:
            raise ModelError(f"text_encoder.config cannot be used: {error}") from error
    if options.max_length > settings.max_position_embeddings:
        raise ModelError(
            f"text_encoder.max_length = {options.max_length} is more than the encoder's "
            f"{settings.max_position_embeddings} positions. Lower it or take another encoder."
        )
    if vocab_size is not None and vocab_size > settings.vocab_size:
        raise ModelError(
            f"The tokenizer has {vocab_size} tokens and the text encoder {settings.vocab_size}. "
            "Take the tokenizer that belongs to the pretrained weights."
        )
    if options.num_layers is not None:
        if options.num_layers > settings.num_hidden_layers:
            raise ModelError(
                f"text_encoder.num_layers = {options.num_layers} is more than the encoder "
                f"has, {settings.num_hidden_layers}. Lower it, or leave it out for all of them."
            )
        settings = dataclasses.replace(settings, num_hidden_layers=options.num_layers)
    if options.feed_forward_units is not None:
        settings = _narrowed(settings, options.feed_forward_units)
    if options.numbers_at:
        settings = _reading_numbers(settings, options.numbers_at)
    if options.add_compositions:
        if not settings.reads_facts:
            raise ModelError(
                "text_encoder.add_compositions is set, and only BERT reads compositions. Set it to "
                "False, or take another encoder."
            )
        settings = dataclasses.replace(settings, add_compositions=True)
    if options.dropout is not None:
        settings = settings.with_dropout(options.dropout)
    lora = _lora(settings, options.lora)
    return dataclasses.replace(settings, compute_dtype=compute_dtype(config), lora=lora)


def _lora(settings: TextEncoderSettings, options: ml_collections.ConfigDict) -> Lora | None:
    """The adapters of the config group `text_encoder.lora`; None if there are none."""
    if not options.rank:
        return None
    known = settings.linear_maps
    unknown = [target for target in options.targets if target not in known]
    if unknown or not options.targets:
        what = f"has {unknown[0]!r}, which this text encoder lacks" if unknown else "is empty"
        raise ModelError(f"text_encoder.lora.targets {what}. Name some of {', '.join(known)}.")
    return Lora(options.rank, float(options.alpha), tuple(options.targets))


def _narrowed(settings: TextEncoderSettings, units: int) -> TextEncoderSettings:
    if not settings.can_be_narrowed:
        raise ModelError(
            "text_encoder.feed_forward_units is set, and this kind of encoder cannot be narrowed. "
            "Set it to None, or take another encoder."
        )
    if units > settings.intermediate_size:
        raise ModelError(
            f"text_encoder.feed_forward_units = {units} is more than the encoder has, "
            f"{settings.intermediate_size}. Lower it, or set it to None for all of them."
        )
    return dataclasses.replace(settings, intermediate_size=units)


def _reading_numbers(settings: TextEncoderSettings, layers: tuple[int, ...]) -> TextEncoderSettings:
    if not settings.reads_facts:
        raise ModelError(
            "text_encoder.numbers_at is set, and only BERT reads numbers. Set it to (), or take "
            "another encoder."
        )
    if max(layers) > settings.num_hidden_layers:
        raise ModelError(
            f"text_encoder.numbers_at has {max(layers)}, but the encoder has "
            f"{counted(settings.num_hidden_layers, 'layer')}. Lower it."
        )
    return dataclasses.replace(settings, numbers_at=tuple(layers))


def build_text_encoder(
    config: ml_collections.ConfigDict, vocab_size: int | None = None
) -> nn.Module:
    """The text encoder of `config.text_encoder`; arguments and errors as for `text_settings`."""
    return text_settings(config, vocab_size).build(
        feature=config.text_encoder.feature,
        with_lm_loss=config.lm_weight > 0,
        remat="text_encoder" in config.remat,
    )


def encoder_needs(config: ml_collections.ConfigDict) -> EncoderNeeds:
    """The data requirements of a config's encoders.

    Raises:
        ModelError: no encoder has the name given in the config.
        PretrainedError: the config.json of the pretrained text encoder cannot be used.
    """
    graph = graph_settings(config.graph_encoder)
    # A property is learned without texts.
    has_texts = config.task != "property"
    return EncoderNeeds(
        graph.cutoff,
        graph.max_neighbours,
        causal=has_texts and text_kind(config.text_encoder).causal,
        descriptors=config.graph_encoder.add_descriptors
        or (has_texts and config.structure_weight > 0),
        facts=TextFacts(
            numbers=has_texts and bool(config.text_encoder.numbers_at),
            compositions=has_texts and config.text_encoder.add_compositions,
        ),
    )
