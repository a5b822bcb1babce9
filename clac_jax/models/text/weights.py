"""Hugging Face's tensors of a text encoder as the parameters of `Bert`, `Decoder` and `Gemma`."""

from __future__ import annotations

from typing import Any

import numpy as np

from clac_jax.models.text.bert import BertConfig
from clac_jax.models.text.decoder import DecoderConfig
from clac_jax.models.text.gemma import GemmaConfig
from clac_jax.models.torch_layout import TensorReader, Tensors

TextConfig = BertConfig | DecoderConfig | GemmaConfig


def text_params(tensors: Tensors, config: TextConfig) -> dict[str, Any]:
    """Renames Hugging Face tensors into the parameters of `Bert`, `Decoder` or `Gemma`.

    Poolers and heads of other tasks are left out; a decoder's logits use its word embedding.

    Args:
        tensors: by state-dict name, with or without the prefix of a model with a head.
        config: sizes to check against.

    Raises:
        KeyError: a tensor is missing.
        ValueError: a tensor has another shape.
    """
    if isinstance(config, BertConfig):
        return bert_params(tensors, config)
    if isinstance(config, GemmaConfig):
        return gemma_params(tensors, config)
    is_gpt2 = any(name.endswith("wte.weight") for name in tensors)
    return gpt2_params(tensors, config) if is_gpt2 else opt_params(tensors, config)


def bert_params(tensors: Tensors, config: BertConfig) -> dict[str, Any]:
    """`text_params` of a BERT; the pooler is left out."""
    hidden, wide = config.hidden_size, config.intermediate_size
    reader = TensorReader(tensors, "embeddings.word_embeddings.weight")

    def embedding(kind: str, count: int) -> dict[str, np.ndarray]:
        return {"embedding": reader.take(f"embeddings.{kind}_embeddings.weight", count, hidden)}

    params: dict[str, Any] = {
        "word_embedding": embedding("word", config.vocab_size),
        "position_embedding": embedding("position", config.max_position_embeddings),
        "type_embedding": embedding("token_type", config.type_vocab_size),
        "embedding_norm": reader.norm("embeddings.LayerNorm", hidden),
    }
    for k in range(config.num_hidden_layers):
        layer = f"encoder.layer.{k}"
        params[f"layer_{k}_attention"] = {
            "query": reader.dense(f"{layer}.attention.self.query", hidden, hidden),
            "key": reader.dense(f"{layer}.attention.self.key", hidden, hidden),
            "value": reader.dense(f"{layer}.attention.self.value", hidden, hidden),
            "out": reader.dense(f"{layer}.attention.output.dense", hidden, hidden),
        }
        params[f"layer_{k}_attention_norm"] = reader.norm(
            f"{layer}.attention.output.LayerNorm", hidden
        )
        params[f"layer_{k}_intermediate"] = reader.dense(
            f"{layer}.intermediate.dense", hidden, wide
        )
        params[f"layer_{k}_output"] = reader.dense(f"{layer}.output.dense", wide, hidden)
        params[f"layer_{k}_output_norm"] = reader.norm(f"{layer}.output.LayerNorm", hidden)
    if "cls.predictions.bias" in tensors:
        params["lm_head"] = {
            "transform": reader.dense("cls.predictions.transform.dense", hidden, hidden),
            "norm": reader.norm("cls.predictions.transform.LayerNorm", hidden),
            "bias": reader.take("cls.predictions.bias", config.vocab_size),
        }
    return params


_OPT_POSITION_OFFSET = 2
"""Rows of OPT's position table that no token uses."""


def opt_params(tensors: Tensors, config: DecoderConfig) -> dict[str, Any]:
    """`text_params` of an OPT or a Galactica."""
    hidden, wide, bias = config.hidden_size, config.intermediate_size, config.use_bias
    word_size = config.embedding_size or hidden
    reader = TensorReader(tensors, "decoder.embed_tokens.weight")

    def norm(name: str) -> dict[str, np.ndarray]:
        return reader.norm(name, hidden) if config.norm_affine else {}

    rows = config.max_position_embeddings + _OPT_POSITION_OFFSET
    positions = reader.take("decoder.embed_positions.weight", rows, hidden)
    params: dict[str, Any] = {
        "word_embedding": {
            "embedding": reader.take("decoder.embed_tokens.weight", config.vocab_size, word_size)
        },
        "position_embedding": {"embedding": positions[_OPT_POSITION_OFFSET:]},
    }
    if config.embedding_size:
        params["project_in"] = reader.dense("decoder.project_in", word_size, hidden, False)
        params["project_out"] = reader.dense("decoder.project_out", hidden, word_size, False)
    for k in range(config.num_hidden_layers):
        layer = f"decoder.layers.{k}"
        params[f"layer_{k}_attention"] = {
            "query": reader.dense(f"{layer}.self_attn.q_proj", hidden, hidden, bias),
            "key": reader.dense(f"{layer}.self_attn.k_proj", hidden, hidden, bias),
            "value": reader.dense(f"{layer}.self_attn.v_proj", hidden, hidden, bias),
            "out": reader.dense(f"{layer}.self_attn.out_proj", hidden, hidden, bias),
        }
        params[f"layer_{k}_attention_norm"] = norm(f"{layer}.self_attn_layer_norm")
        params[f"layer_{k}_intermediate"] = reader.dense(f"{layer}.fc1", hidden, wide, bias)
        params[f"layer_{k}_output"] = reader.dense(f"{layer}.fc2", wide, hidden, bias)
        params[f"layer_{k}_output_norm"] = norm(f"{layer}.final_layer_norm")
    if config.final_norm:
        params["final_norm"] = norm("decoder.final_layer_norm")
    return {name: value for name, value in params.items() if value}


def gpt2_params(tensors: Tensors, config: DecoderConfig) -> dict[str, Any]:
    """`text_params` of a GPT-2, whose linear maps are stored input first."""
    hidden, wide = config.hidden_size, config.intermediate_size
    reader = TensorReader(tensors, "wte.weight")

    def dense(name: str, fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
        kernel = reader.take(f"{name}.weight", fan_in, fan_out)
        return {"kernel": kernel, "bias": reader.take(f"{name}.bias", fan_out)}

    params: dict[str, Any] = {
        "word_embedding": {"embedding": reader.take("wte.weight", config.vocab_size, hidden)},
        "position_embedding": {
            "embedding": reader.take("wpe.weight", config.max_position_embeddings, hidden)
        },
        "final_norm": reader.norm("ln_f", hidden),
    }
    for k in range(config.num_hidden_layers):
        joint = dense(f"h.{k}.attn.c_attn", hidden, 3 * hidden)
        parts = {name: np.split(value, 3, axis=-1) for name, value in joint.items()}
        attention = {
            name: {leaf: np.ascontiguousarray(values[j]) for leaf, values in parts.items()}
            for j, name in enumerate(("query", "key", "value"))
        }
        attention["out"] = dense(f"h.{k}.attn.c_proj", hidden, hidden)
        params[f"layer_{k}_attention"] = attention
        params[f"layer_{k}_attention_norm"] = reader.norm(f"h.{k}.ln_1", hidden)
        params[f"layer_{k}_intermediate"] = dense(f"h.{k}.mlp.c_fc", hidden, wide)
        params[f"layer_{k}_output"] = dense(f"h.{k}.mlp.c_proj", wide, hidden)
        params[f"layer_{k}_output_norm"] = reader.norm(f"h.{k}.ln_2", hidden)
    return params


def gemma_params(tensors: Tensors, config: GemmaConfig) -> dict[str, Any]:
    """`text_params` of a Gemma 3."""
    hidden, wide, width = config.hidden_size, config.intermediate_size, config.head_width
    queries, keys = config.num_attention_heads * width, config.num_key_value_heads * width
    reader = TensorReader(tensors, "embed_tokens.weight")

    def dense(name: str, fan_in: int, fan_out: int) -> dict[str, np.ndarray]:
        return reader.dense(name, fan_in, fan_out, False)

    def norm(name: str, size: int = hidden) -> dict[str, np.ndarray]:
        return {"scale": reader.take(f"{name}.weight", size)}

    params: dict[str, Any] = {
        "word_embedding": {
            "embedding": reader.take("embed_tokens.weight", config.vocab_size, hidden)
        },
        "final_norm": norm("norm"),
    }
    for k in range(config.num_hidden_layers):
        layer = f"layers.{k}"
        params[f"layer_{k}_attention"] = {
            "query": dense(f"{layer}.self_attn.q_proj", hidden, queries),
            "key": dense(f"{layer}.self_attn.k_proj", hidden, keys),
            "value": dense(f"{layer}.self_attn.v_proj", hidden, keys),
            "out": dense(f"{layer}.self_attn.o_proj", queries, hidden),
            "query_norm": norm(f"{layer}.self_attn.q_norm", width),
            "key_norm": norm(f"{layer}.self_attn.k_norm", width),
        }
        for ours, theirs in (
            ("attention_norm", "input_layernorm"),
            ("attention_out_norm", "post_attention_layernorm"),
            ("perceptron_norm", "pre_feedforward_layernorm"),
            ("perceptron_out_norm", "post_feedforward_layernorm"),
        ):
            params[f"layer_{k}_{ours}"] = norm(f"{layer}.{theirs}")
        params[f"layer_{k}_gate"] = dense(f"{layer}.mlp.gate_proj", hidden, wide)
        params[f"layer_{k}_up"] = dense(f"{layer}.mlp.up_proj", hidden, wide)
        params[f"layer_{k}_down"] = dense(f"{layer}.mlp.down_proj", wide, hidden)
    return params
