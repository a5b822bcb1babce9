"""Texts packed into rows, the input of the text encoders."""

from __future__ import annotations

import numpy as np

from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline.batch import BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView

ATOM = CrystalGraph(
    atomic_numbers=np.array([1], np.int32),
    senders=np.zeros(0, np.int32),
    receivers=np.zeros(0, np.int32),
    edge_vectors=np.zeros((0, 3), np.float32),
    lattice=np.eye(3, dtype=np.float32),
)


def pack(texts, tiles, num_examples=None, indices=None):
    """TextBatch with one view per text: ids, or a tuple (ids, labels, numbers, composition)."""
    views = [TokenView(*text) if isinstance(text, tuple) else TokenView(text) for text in texts]
    num_examples = num_examples or len(texts)
    nodes = ((num_examples, 1),)
    indices = indices or range(len(texts))
    examples = [
        ExampleViews(index, (ATOM,), (view,)) for index, view in zip(indices, views, strict=True)
    ]
    shape = BatchShape(num_examples, 1, 1, nodes, 0, tiles, examples[0].present)
    return collate(examples, shape).texts


def packed_inputs(fixture, tiles=((20, 4),)):
    inputs = fixture.section("in")
    lengths = inputs["attention_mask"].sum(1)
    assert all(row[:n].all() for row, n in zip(inputs["attention_mask"], lengths, strict=True))
    texts = pack(
        [
            (ids[:n].astype(np.int32), labels[:n].astype(np.int32))
            for ids, labels, n in zip(inputs["input_ids"], inputs["labels"], lengths, strict=True)
        ],
        tiles,
    )
    types = np.zeros(texts.ids.shape, np.int32)
    for row, n in enumerate(lengths):
        first = texts.first_token[row]
        types[first : first + n] = inputs["token_type_ids"][row, :n]
    return texts, types, lengths


def random_texts(seed, lengths):
    rng = np.random.default_rng(seed)
    return [rng.integers(5, 200, size=n).astype(np.int32) for n in lengths]
