"""Model files of other programs: safetensors and its index, config.json, tokenizers."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from clac_jax.files.safetensors import read_safetensors
from clac_jax.models.text import pretrained
from clac_jax.text.sentences import Tokenizer
from tools.fuzzing.format import MODELS, Format, as_json, corrupt_one


def _copy_models(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for model in ("hf_bert", "hf_opt"):
            (folder / model).mkdir()
            for name in names:
                if (MODELS / model / name).exists():
                    shutil.copy(MODELS / model / name, folder / model / name)

    return make


def _make_safetensors(folder: Path) -> None:
    for k in range(2):
        (folder / str(k)).mkdir()
        tensors = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(k, np.int64)}
        save_file(tensors, folder / str(k) / "model.safetensors", metadata={"format": "pt"})


def safetensors_header(data: bytes, rng: random.Random) -> bytes:
    """The original data after a mutated header with a correct length."""
    length = int.from_bytes(data[:8], "little")
    header = as_json(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _make_index(folder: Path) -> None:
    _make_safetensors(folder)
    for model in folder.iterdir():
        (model / "model.safetensors").rename(model / "part.safetensors")
        index = {"metadata": {}, "weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))


def _make_word_pieces(folder: Path) -> None:
    (folder / "0").mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "ti", "##o", "2"]
    (folder / "0" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "0" / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def _read_tokenizer(folder: Path) -> Any:
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("TiO2 has 2 atoms; a \U0001f48e.", 16)
    assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size, "an id beyond the vocabulary"
    return ids


def _corrupt_word_pieces(folder: Path, rng: random.Random) -> bool:
    if rng.random() < 0.6:
        return corrupt_one("vocab.txt")(folder, rng)
    return corrupt_one("tokenizer_config.json", as_json)(folder, rng)


FORMATS = (
    Format(
        "safetensors",
        _make_safetensors,
        corrupt_one("*.safetensors", safetensors_header),
        lambda folder: read_safetensors(folder / "model.safetensors"),
    ),
    Format(
        "index",
        _make_index,
        corrupt_one("*.index.json", as_json, as_json),
        lambda folder: pretrained.load_tensors(folder)[1],
    ),
    Format(
        "config.json",
        _copy_models("config.json"),
        corrupt_one("config.json", as_json, as_json),
        lambda folder: repr(pretrained.load_huggingface_config(folder)),
    ),
    Format(
        "tokenizer.json",
        _copy_models("tokenizer.json", "tokenizer_config.json"),
        corrupt_one("tokenizer*.json", as_json, as_json),
        _read_tokenizer,
    ),
    Format("vocab.txt", _make_word_pieces, _corrupt_word_pieces, _read_tokenizer),
)
