"""The base run with a different crystal or text encoder: `--config=configs/encoders.py:cgcnn`.

Except for `orb_v3`, the graph encoders are small enough to train on a CPU. Among the text
encoders, only the base run's MiniLM comes with weights; the others are small here and start at
random. To train a pretrained one, give its folder or hub id:

    --config=configs/encoders.py:opt --config.text_encoder.pretrained=facebook/galactica-125m
        --config.text_encoder.tokenizer=facebook/galactica-125m
"""

from typing import Any

import ml_collections

from clac_jax.config.shipped import shipped_config
from clac_jax.errors import ConfigError

_RANDOM_TEXT = {
    "text_encoder.pretrained": None,
    "text_encoder.num_layers": None,
    "text_encoder.feed_forward_units": None,
    "text_encoder.numbers_at": (),
    "text_encoder.add_compositions": False,
    "text_encoder.config.hidden_size": 192,
    "text_encoder.config.num_hidden_layers": 3,
    "text_encoder.config.num_attention_heads": 6,
    "text_encoder.config.intermediate_size": 768,
    "frozen": (),
}
_DECODER = _RANDOM_TEXT | {"text_encoder.feature": "last"}
ENCODERS: dict[str, dict[str, Any]] = {
    "painn": {},
    "painn_12_nearest": {"graph_encoder.max_neighbours": 12},
    "cgcnn": {
        "graph_encoder.name": "cgcnn",
        "graph_encoder.atom_fea_len": 64,
        "graph_encoder.h_fea_len": 128,
        "graph_encoder.max_neighbours": 24,
    },
    # The sizes and graph of orb-v3-direct-20-omat, whose file `graph_encoder.pretrained` accepts.
    "orb_v3": {
        "graph_encoder.name": "orb",
        "graph_encoder.num_features": 256,
        "graph_encoder.hidden_features": 1024,
        "graph_encoder.num_interactions": 5,
        "graph_encoder.max_neighbours": 20,
        "graph_encoder.add_composition": False,
        "graph_encoder.add_descriptors": False,
    },
    "orb_small": {
        "graph_encoder.name": "orb",
        "graph_encoder.num_features": 64,
        "graph_encoder.hidden_features": 128,
        "graph_encoder.num_interactions": 2,
        "graph_encoder.max_neighbours": 20,
    },
    "composition": {
        "graph_encoder.name": "composition",
        "graph_encoder.add_composition": False,
        "graph_encoder.add_descriptors": False,
    },
    "minilm": {},
    "bert": _RANDOM_TEXT | {"text_encoder.config.model_type": "bert"},
    "opt": _DECODER | {"text_encoder.config.model_type": "opt"},
    "gpt2": _DECODER | {"text_encoder.config.model_type": "gpt2"},
    "gemma3": _DECODER | {"text_encoder.config.model_type": "gemma3_text"},
}


def get_config(name: str = "painn") -> ml_collections.ConfigDict:
    if name not in ENCODERS:
        raise ConfigError(f"Unknown encoder {name!r}. Use one of {', '.join(ENCODERS)}.")
    config = shipped_config("base")
    for key, value in ENCODERS[name].items():
        config.update_from_flattened_dict({key: value})
    return config
