"""Text summary of a Hugging Face language model for the command line."""

from __future__ import annotations

import math

import jax

from clac_jax.errors import one_line
from clac_jax.files.huggingface import read_config, resolve_folder
from clac_jax.models.text.pretrained import (
    DEFAULT_KIND,
    checked_text_params,
    load_huggingface_config,
    load_tensors,
)
from clac_jax.models.torch_layout import SeenTensors
from clac_jax.text.sentences import Tokenizer

MAX_LENGTH = 128  # tokens, as in the paper


def describe_language_model(name: str) -> str:
    """Loads the model of a folder or Hub id as a run would, and describes it.

    Returns:
        Lines with the architecture, its sizes, unused tensors, and the flags for a run.

    Raises:
        PretrainedError, TokenizerError: a file is missing, damaged or not supported.
    """
    folder = resolve_folder(name)
    settings = load_huggingface_config(folder)
    path, tensors = load_tensors(folder)
    seen = SeenTensors(tensors)
    params = checked_text_params(path, seen, settings)
    tokenizer = Tokenizer.from_folder(folder)
    kind = read_config(folder).get("model_type", DEFAULT_KIND)
    number = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    feature = "last" if settings.causal else "first"
    flags = [
        f"--config.text_encoder.pretrained={name}",
        f"--config.text_encoder.tokenizer={name}",
        f"--config.text_encoder.feature={feature}",
        f"--config.text_encoder.max_length={min(MAX_LENGTH, settings.max_position_embeddings)}",
    ]
    return "\n".join(
        [
            f"model     {kind}, {number:,} parameters: {settings.num_hidden_layers} layers of "
            f"{settings.hidden_size}, {settings.num_attention_heads} heads",
            f"tokenizer {tokenizer.vocab_size:,} tokens; the model has {settings.vocab_size:,}",
            f"file      {path}",
            *(f"unused    tensor {one_line(tensor)}" for tensor in seen.unread()),
            f"use it    {' '.join(flags)}",
        ]
    )
