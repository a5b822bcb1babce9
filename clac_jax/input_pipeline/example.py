"""The views of one example, as the model sees them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from clac_jax.crystals.graph import CrystalGraph


@dataclass(frozen=True)
class TokenView:
    """One tokenized text.

    Attributes:
        ids: (L,) int32 token ids with special tokens, truncated, unpadded.
        labels: (L,) int32 targets of the language-model loss (-100 = ignored), or None.
        numbers: (L,) float32 value of the number that a token is a part of, NaN for other tokens;
            None if no encoder reads them.
        composition: (2, MAX_ATOMIC_NUMBER + 1) float32, the composition that the text states, see
            `token_facts.token_composition`; None if no encoder reads it.
    """

    ids: np.ndarray
    labels: np.ndarray | None = None
    numbers: np.ndarray | None = None
    composition: np.ndarray | None = None


@dataclass(frozen=True)
class Present:
    """Which optional arrays all examples and batches of a run have.

    Attributes:
        labels: values of a property; if so, even a part of a batch without examples has them.
        descriptors: descriptors of the crystals.
        numbers: values of the numbers in the texts.
        compositions: compositions that the texts state.
    """

    labels: bool = False
    descriptors: bool = False
    numbers: bool = False
    compositions: bool = False


NOTHING = Present()


@dataclass(frozen=True)
class ExampleViews:
    """One example as the model sees it: one or two views of its crystal and of its text.

    Attributes:
        index: index of the example in its split.
        graphs: views of the crystal.
        tokens: views of the text.
        label: target value of the property being learned; None when no property is learned.
        digests: (3, 2) uint32, see `example_digest`; None if they are not recorded.
    """

    index: int
    graphs: tuple[CrystalGraph, ...]
    tokens: tuple[TokenView, ...]
    label: float | None = None
    digests: np.ndarray | None = None

    @property
    def present(self) -> Present:
        """The optional arrays of this example, which is not left out."""
        text = self.tokens[0]
        return Present(
            labels=self.label is not None,
            descriptors=self.graphs[0].descriptors is not None,
            numbers=text.numbers is not None,
            compositions=text.composition is not None,
        )

    @classmethod
    def left_out(cls, with_labels: bool) -> ExampleViews:
        """An example that is left out: without a crystal, it leaves its slot empty.

        Args:
            with_labels: whether texts have labels.
        """
        nothing = np.zeros(0, np.int32)
        return cls(-1, (), (TokenView(nothing, nothing if with_labels else None),))
