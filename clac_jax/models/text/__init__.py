"""Text encoders: packed texts to one feature vector per text.

To add one, write a file in this folder and a line in `TEXT_ENCODERS`: docs/add-an-encoder.md.
"""

from __future__ import annotations

from clac_jax.models.text.bert import BertSettings
from clac_jax.models.text.decoder import Gpt2Settings, OptSettings
from clac_jax.models.text.gemma import GemmaSettings
from clac_jax.models.text.settings import TextEncoderSettings

# `model_type` of a config or a config.json -> the kind of encoder; the only place that lists them.
# The first entry is used for a config.json without a model_type.
TEXT_ENCODERS: dict[str, type[TextEncoderSettings]] = {
    "bert": BertSettings,
    "opt": OptSettings,
    "gpt2": Gpt2Settings,
    "gemma3_text": GemmaSettings,
}
