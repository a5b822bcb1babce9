"""The base class of text encoder settings: what every text encoder declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import flax.linen as nn

from clac_jax.config.key import key
from clac_jax.errors import one_line
from clac_jax.models.anatomy import Anatomy
from clac_jax.models.text.lora import Lora
from clac_jax.models.torch_layout import Tensors

Params = dict[str, Any]
ATTENTION_MAPS = ("query", "key", "value", "out")
"""The linear maps of every attention."""


@dataclass(frozen=True)
class TextEncoderSettings:
    """Sizes of a text encoder, and everything the rest of the package needs from it.

    A kind of encoder is a frozen subclass in a file of its own, plus one line in `TEXT_ENCODERS`.
    Field names follow Hugging Face's BERT wherever BERT has the setting. Without pretrained
    weights, fields declared by `config.key.key` are read from the config group
    `text_encoder.config`; with them, all fields come from their config.json.

    `compute_dtype` is the dtype of the arithmetic, "bfloat16" for mixed precision; None: that of
    the parameters. `numbers_at` are the layers before which the values of numbers are added to
    their tokens; `add_compositions` says whether the composition that a text states is added
    to its features. `lora` are the adapters of the linear maps; None: they have none.

    Attributes:
        causal: whether the encoder predicts the next token rather than masked ones.
        reads_facts: whether it supports `numbers_at` and `add_compositions`.
        can_be_narrowed: whether it supports `feed_forward_units`, see `narrowing`.
        linear_maps: the linear maps of each layer that `lora` can target.
        required: key of a config.json -> the only value supported if the key is given.

    Raises:
        ValueError: a size or a rate is out of range, or the heads do not divide the width.
    """

    vocab_size: int
    hidden_size: int = key(384, "width of a token's features", low=1)
    num_hidden_layers: int = key(6, "transformer layers", low=1)
    num_attention_heads: int = key(12, "attention heads; must divide hidden_size", low=1)
    intermediate_size: int = key(1536, "width of the perceptrons' hidden layer", low=1)
    max_position_embeddings: int = key(512, "tokens of the longest text with positions", low=1)
    layer_norm_eps: float = 1e-5
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02
    compute_dtype: str | None = None
    numbers_at: tuple[int, ...] = ()
    add_compositions: bool = False
    lora: Lora | None = None

    causal: ClassVar[bool] = False
    reads_facts: ClassVar[bool] = False
    can_be_narrowed: ClassVar[bool] = False
    linear_maps: ClassVar[tuple[str, ...]] = (*ATTENTION_MAPS, "intermediate", "output")
    required: ClassVar[Mapping[str, Any]] = {}

    def build(
        self, feature: str = "mean", with_lm_loss: bool = False, remat: bool = False
    ) -> nn.Module:
        """The module with these settings.

        Called as `module(texts, stream=...)` with a `TextBatch` and the random stream for dropout
        (None disables dropout), it returns a `TextOutput`.

        Args:
            feature: "first" or "last" token, "mean" over the text's tokens, or "attention": the
                mean concatenated with learned weighted means.
            with_lm_loss: whether the language-model loss of texts with labels is computed.
            remat: whether the backward pass recomputes the inside of each layer.
        """
        raise NotImplementedError

    def anatomy(self, feature: str = "mean", with_lm_loss: bool = False) -> Anatomy | None:
        """The units of the module's arrays, so that it can be grown; None: it cannot.

        Args:
            feature: as for `build`.
            with_lm_loss: as for `build`.
        """
        del feature, with_lm_loss
        return None

    @classmethod
    def from_huggingface(cls, values: Mapping[str, Any]) -> Self:
        """Settings from the values of a Hugging Face config.json.

        Raises:
            KeyError: a size is missing.
            ValueError: sizes are incompatible, or something is not supported.
        """
        raise NotImplementedError

    def huggingface_params(self, tensors: Tensors) -> Params:
        """Hugging Face's tensors as the parameters of the module.

        Poolers and heads for other tasks are left out.

        Args:
            tensors: tensors by state-dict name, with or without the prefix of a model with a head.

        Raises:
            KeyError: a tensor is missing.
            ValueError: a tensor has the wrong shape.
        """
        raise NotImplementedError

    def __post_init__(self) -> None:
        self._check_values()
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be split over {self.num_attention_heads} "
                "attention heads. Make it a multiple of num_attention_heads."
            )

    def _check_values(self) -> None:
        """Checks the values, since files written by other programs may contain anything."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is None and "None" in str(field.type):
                continue
            kind = str(field.type).split(" | ")[0]
            if kind in _IS_USABLE and not _IS_USABLE[kind](value):
                raise ValueError(
                    f"{field.name} is {one_line(repr(value), 40)}, which is not {_WORDS[kind]}."
                )

    def with_dropout(self, rate: float) -> Self:
        """A copy of the settings with this rate wherever the encoder has dropout."""
        return dataclasses.replace(
            self, hidden_dropout_prob=rate, attention_probs_dropout_prob=rate
        )


_MAX_SIZE = 10_000_000  # only parameter counts exceed this
_IS_USABLE: dict[str, Callable[[Any], bool]] = {
    "int": lambda x: isinstance(x, int) and not isinstance(x, bool) and 0 < x <= _MAX_SIZE,
    "float": lambda x: (
        isinstance(x, int | float) and not isinstance(x, bool) and 0 <= x < _MAX_SIZE
    ),
    "bool": lambda x: isinstance(x, bool),
    "str": lambda x: isinstance(x, str),
}
_WORDS = {
    "int": "a size",
    "float": "a number of at least 0",
    "bool": "true or false",
    "str": "text",
}
