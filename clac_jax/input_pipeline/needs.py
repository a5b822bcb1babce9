"""What the data must know of the encoders, as plain values: nothing here imports a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EncoderNeeds:
    """What the two encoders of a run take in; `clac_jax.models.encoders.encoder_needs` says it.

    Attributes:
        cutoff: longest edge of a crystal's graph, angstrom.
        max_neighbours: nearest incoming edges kept per atom; 0 keeps all.
        causal: whether the text encoder predicts the next token: no token is masked then, and each
            but the first of a text is a label of the language-model loss.
    """

    cutoff: float
    max_neighbours: int = 0
    causal: bool = False
