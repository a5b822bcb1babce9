"""Adapters of the text encoder (LoRA): which of its linear maps have them, and what is frozen.

The arrays of an adapter lie next to the kernel that they adapt: `.../query/kernel` has
`.../query/lora_a` and `.../query/lora_b`. All other names are those of a model without adapters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import ml_collections

Config = Mapping[str, Any] | ml_collections.ConfigDict
"""The complete config of a run, or its nested dict."""

LORA_TARGETS = ("query", "key", "value", "out", "intermediate", "output", "gate", "up", "down")
"""The linear maps that `config.text_encoder.lora.targets` may name."""

# The pretrained part of a text encoder; what is added to it begins at random, and is trained.
_BASE = r"text_encoder/(?!pooling/|numbers_\d+/|compositions/|lm_head/)(?!.*/lora_[ab]$).*"
_ADAPTER = re.compile(r"(?:.*/)?text_encoder/(?:.*/)?lora_[ab]")


def is_adapter(path: str) -> bool:
    """Whether the slash path of an array, or of its moments, is that of an adapter."""
    return _ADAPTER.fullmatch(path) is not None


def has_adapters(config: Config) -> bool:
    """Whether the text encoder of a complete config has adapters."""
    return bool(config["task"] != "property" and config["text_encoder"]["lora"]["rank"] > 0)


def frozen_patterns(config: Config) -> tuple[str, ...]:
    """Regular expressions on the paths of the parameters that a run does not train.

    They are those of `config.frozen`, and with adapters also the weights that these adapt.

    Args:
        config: the config of the run.
    """
    return (*config["frozen"], *((_BASE,) if has_adapters(config) else ()))


def is_frozen(path: str, config: Config) -> bool:
    """Whether a run does not train the parameter of a path such as "graph_encoder/out/bias"."""
    return any(re.fullmatch(pattern, path) for pattern in frozen_patterns(config))
