"""Small language models in the layout of Hugging Face."""

import json
import shutil

import numpy as np
from safetensors.numpy import save_file

from clac_jax.files.huggingface import resolve_folder

SIZES = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}


def write_small_bert(folder, seed=0):
    """Random weights of a small BERT, with the tokenizer of minilm."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    hidden, wide = SIZES["hidden_size"], SIZES["intermediate_size"]
    shapes = {
        "embeddings.word_embeddings.weight": (SIZES["vocab_size"], hidden),
        "embeddings.position_embeddings.weight": (SIZES["max_position_embeddings"], hidden),
        "embeddings.token_type_embeddings.weight": (SIZES["type_vocab_size"], hidden),
    }
    linear = {"embeddings.LayerNorm": (hidden,)}
    for k in range(SIZES["num_hidden_layers"]):
        layer = f"encoder.layer.{k}"
        for name in ("self.query", "self.key", "self.value", "output.dense"):
            linear[f"{layer}.attention.{name}"] = (hidden, hidden)
        linear[f"{layer}.attention.output.LayerNorm"] = (hidden,)
        linear[f"{layer}.intermediate.dense"] = (wide, hidden)
        linear[f"{layer}.output.dense"] = (hidden, wide)
        linear[f"{layer}.output.LayerNorm"] = (hidden,)
    for name, shape in linear.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    tensors = {
        name: (0.2 * rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(SIZES))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(resolve_folder("minilm") / name, folder / name)
    return folder
