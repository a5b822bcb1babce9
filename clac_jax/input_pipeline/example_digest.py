"""Digests of examples as the model receives them, before they are packed."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

import numpy as np

from clac_jax.input_pipeline.example import ExampleViews

BATCH_DIGESTS = ("ids", "texts", "crystals")
"""The digests of an example, and of a batch, in this order."""


def digested(example: ExampleViews, position: int) -> ExampleViews:
    """The example with `digests`, whose sum over a batch does not depend on how it is packed.

    Args:
        example: an example of a training batch.
        position: its position in the batch, over all processes.
    """
    texts: list[np.ndarray] = []
    for view in example.tokens:
        arrays = (view.ids, view.labels, view.numbers, view.composition)
        texts += [each for each in arrays if each is not None]
    crystals: list[np.ndarray] = []
    for graph in example.graphs:
        crystals += [graph.atomic_numbers, graph.senders, graph.receivers]
        crystals += [graph.edge_vectors, graph.lattice]
        if (descriptors := graph.descriptors) is not None:
            group = np.array(descriptors.space_group, np.int32)
            crystals += [group, descriptors.cell, descriptors.sites]
    ids = [np.array(example.index, np.int64)]
    if example.label is not None:
        ids.append(np.array(example.label, np.float64))
    words = [_hashed(position, arrays) for arrays in (ids, texts, crystals)]
    return dataclasses.replace(example, digests=np.stack(words))


def _hashed(position: int, arrays: Iterable[np.ndarray]) -> np.ndarray:
    """(2,) uint32, a hash of arrays and of a position."""
    hashed = hashlib.blake2b(position.to_bytes(8, "little"), digest_size=8)
    for array in arrays:
        hashed.update(f"{array.dtype.str} {array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return np.frombuffer(hashed.digest(), "<u4")
