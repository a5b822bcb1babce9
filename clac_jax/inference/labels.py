"""Labels as sentences: prompts, their mean directions, and probabilities."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from clac_jax.errors import one_line
from clac_jax.inference.errors import InputError


def listed(values: Iterable[str], what: str) -> list[str]:
    """The texts of any iterable, such as a generator; `what` names them in the message.

    Raises:
        InputError: it is one text, or not only of texts.
    """
    texts: list[Any]
    try:
        texts = [None] if isinstance(values, str) else list(values)
    except TypeError:
        texts = [None]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"The {what} must be a list of texts. Give one: [...].")
    return texts


def prompts(labels: Iterable[str], templates: Iterable[str]) -> list[str]:
    """The sentences of all labels, template by template.

    >>> prompts(["a metal", "an oxide"], ["{}", "This is {}."])
    ['a metal', 'an oxide', 'This is a metal.', 'This is an oxide.']

    Raises:
        InputError: there are fewer than two labels, one is repeated or empty, or a template has no
            place for the label.
    """
    labels, templates = listed(labels, "labels"), listed(templates, "templates")
    if len(set(labels)) < 2 or len(set(labels)) < len(labels):
        raise InputError(
            "There must be at least two labels, all different: the probabilities are those of one "
            f"label among them. These are {one_line(list(labels))}."
        )
    if not templates:
        raise InputError('There are no templates. Leave them out, or give some like "It is {}."')
    for template in templates:
        if "{}" not in template:
            raise InputError(
                f"The template {one_line(repr(template))} has no place for the label. Write {{}} "
                "there."
            )
    return [template.replace("{}", label) for template in templates for label in labels]


def mean_direction(vectors: np.ndarray) -> np.ndarray:
    """(templates, labels, d) unit vectors -> (labels, d) float32 unit vectors, their means."""
    mean = vectors.mean(axis=0)
    norm = np.linalg.norm(mean, axis=1, keepdims=True)
    return np.asarray(mean / np.maximum(norm, 1e-12), np.float32)


def softmax(logits: np.ndarray) -> np.ndarray:
    """(n, labels) -> (n, labels) float32 probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True), np.float32)
