"""Vectors of texts, each distinct text embedded once per model."""

from __future__ import annotations

import weakref
from collections.abc import Iterable

import numpy as np

from clac_jax.inference.model import Model

# Tasks ask for the same sentences again. Entries disappear with their model.
_KNOWN: weakref.WeakKeyDictionary[Model, dict[str, np.ndarray]] = weakref.WeakKeyDictionary()


def vectors_of(model: Model, texts: Iterable[str]) -> np.ndarray:
    """The vectors of texts, as from `Model.embed_texts`.

    Equal texts have the same vector to the last bit, so their scores tie exactly.

    Args:
        model: a contrastive model.
        texts: at least one text.

    Returns:
        (n, d) float32, in the order of the texts.

    Raises:
        InputError: there are no texts, or one is empty.
    """
    wanted = list(texts)
    known = _KNOWN.setdefault(model, {})
    new = sorted(set(wanted) - known.keys())
    if new or not wanted:
        known.update(zip(new, model.embed_texts(new), strict=True))
    return np.stack([known[text] for text in wanted])
