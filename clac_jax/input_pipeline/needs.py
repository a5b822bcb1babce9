"""Encoder requirements that the data pipeline needs, as plain values: no model is imported."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TextFacts:
    """Facts that accompany the tokens of a text.

    Attributes:
        numbers: whether tokens have the values of numbers.
        compositions: whether a text has the composition that it states.
    """

    numbers: bool = False
    compositions: bool = False


NO_FACTS = TextFacts()


@dataclass(frozen=True)
class EncoderNeeds:
    """Requirements of a run's two encoders, from `clac_jax.models.encoders.encoder_needs`.

    Attributes:
        cutoff: longest edge of a crystal graph, angstrom.
        max_neighbours: nearest incoming edges kept per atom; 0 keeps all.
        causal: whether the text encoder predicts the next token: then no token is masked, and every
            token of a text except the first is a label of the language-model loss.
        descriptors: whether the graph encoder reads the descriptors of crystals, or the structure
            loss predicts them.
        facts: what the text encoder reads in addition to the tokens.
    """

    cutoff: float
    max_neighbours: int = 0
    causal: bool = False
    descriptors: bool = False
    facts: TextFacts = NO_FACTS
