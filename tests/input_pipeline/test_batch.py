"""Packing examples into padded batches."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline.batch import BatchShape, BatchShapeError, collate, misfit
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.input_pipeline.tiles import num_pairs


def random_graph(rng, num_nodes, num_edges):
    return CrystalGraph(
        atomic_numbers=rng.integers(1, 101, num_nodes).astype(np.int32),
        senders=rng.integers(0, num_nodes, num_edges).astype(np.int32),
        receivers=rng.integers(0, num_nodes, num_edges).astype(np.int32),
        edge_vectors=rng.normal(size=(num_edges, 3)).astype(np.float32),
        lattice=rng.normal(size=(3, 3)).astype(np.float32),
    )


def random_text(rng, length):
    ids = rng.integers(1, 1000, length).astype(np.int32)
    return TokenView(ids, np.where(rng.random(length) < 0.2, ids, -100).astype(np.int32))


@st.composite
def examples_and_shape(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    graph_views, text_views = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    nodes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=5))
    examples = [
        ExampleViews(
            100 + k,
            tuple(random_graph(rng, n, int(rng.integers(0, 12))) for _ in range(graph_views)),
            tuple(random_text(rng, int(rng.integers(2, 15))) for _ in range(text_views)),
        )
        for k, n in enumerate(nodes)
    ]
    spare = draw(st.integers(0, 2))
    num_edges = sum(len(g.senders) for e in examples for g in e.graphs)
    shape = BatchShape(
        num_examples=len(examples) + spare,
        graph_views=graph_views,
        text_views=text_views,
        node_tiles=((4, spare), (9, graph_views * len(examples))),
        num_edges=num_edges + spare,
        token_tiles=((8, spare), (15, text_views * len(examples))),
    )
    return examples, shape


@settings(max_examples=60, deadline=None)
@given(examples_and_shape())
def test_everything_can_be_recovered_from_a_batch(case):
    examples, shape = case
    batch = collate(examples, shape)
    rows = [(v, e) for v in range(shape.graph_views) for e in range(len(examples))]
    seen_nodes = 0
    for view, k in rows:
        graph = examples[k].graphs[view]
        row = view * shape.num_examples + k
        nodes = np.flatnonzero(batch.graphs.crystal_index == row)
        seen_nodes += len(nodes)
        np.testing.assert_array_equal(batch.graphs.atomic_numbers[nodes], graph.atomic_numbers)
        edges = batch.graphs.edge_mask & np.isin(batch.graphs.receivers, nodes)
        np.testing.assert_array_equal(batch.graphs.senders[edges] - nodes[0], graph.senders)
        np.testing.assert_array_equal(batch.graphs.receivers[edges] - nodes[0], graph.receivers)
        np.testing.assert_array_equal(batch.graphs.edge_vectors[edges], graph.edge_vectors)
        np.testing.assert_array_equal(batch.graphs.lattices[row], graph.lattice)
    assert seen_nodes == (batch.graphs.atomic_numbers > 0).sum()
    assert batch.graphs.edge_mask.sum() == sum(len(g.senders) for e in examples for g in e.graphs)

    seen_tokens = 0
    for view in range(shape.text_views):
        for k, example in enumerate(examples):
            row = view * shape.num_examples + k
            places = np.flatnonzero(batch.texts.text_index == row)
            seen_tokens += len(places)
            np.testing.assert_array_equal(batch.texts.ids[places], example.tokens[view].ids)
            np.testing.assert_array_equal(batch.texts.labels[places], example.tokens[view].labels)
            np.testing.assert_array_equal(batch.texts.positions[places], range(len(places)))
            assert batch.texts.first_token[row] == places[0]
            assert batch.texts.lengths[row] == len(places)
    padding = batch.texts.text_index == shape.num_examples * shape.text_views
    assert seen_tokens + padding.sum() == shape.num_tokens
    assert (batch.texts.labels[padding] == -100).all()

    np.testing.assert_array_equal(batch.example_mask, np.arange(shape.num_examples) < len(examples))
    np.testing.assert_array_equal(
        batch.example_index[: len(examples)], [example.index for example in examples]
    )


@settings(max_examples=60, deadline=None)
@given(examples_and_shape())
def test_pairs_are_receiver_and_sender_inside_one_tile(case):
    examples, shape = case
    graphs = collate(examples, shape).graphs
    receivers_of, senders_of = [], []
    first = 0
    for size, count in shape.node_tiles:
        for _ in range(count):
            nodes = np.arange(first, first + size)
            receivers_of.append(np.repeat(nodes, size))
            senders_of.append(np.tile(nodes, size))
            first += size
    receivers_of, senders_of = np.concatenate(receivers_of), np.concatenate(senders_of)
    assert len(receivers_of) == num_pairs(shape.node_tiles)
    real = graphs.edge_mask
    np.testing.assert_array_equal(receivers_of[graphs.pair_index[real]], graphs.receivers[real])
    np.testing.assert_array_equal(senders_of[graphs.pair_index[real]], graphs.senders[real])
    assert (graphs.pair_index[~real] == num_pairs(shape.node_tiles)).all()


@settings(max_examples=30, deadline=None)
@given(examples_and_shape(), st.integers(0, 2**32))
def test_batches_of_one_shape_have_one_structure(case, seed):
    examples, shape = case
    order = np.random.default_rng(seed).permutation(len(examples))
    one, other = collate(examples, shape), collate([examples[k] for k in order[:1]], shape)
    describe = lambda batch: jax.tree.map(lambda x: (x.shape, x.dtype), batch)  # noqa: E731
    assert describe(one) == describe(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)


def one_example(num_nodes=4, num_edges=6, num_tokens=5):
    rng = np.random.default_rng(0)
    return ExampleViews(
        7, (random_graph(rng, num_nodes, num_edges),), (random_text(rng, num_tokens),)
    )


SHAPE = BatchShape(2, 1, 1, ((4, 2),), 12, ((5, 2),))


@pytest.mark.parametrize(
    ("examples", "shape", "reason"),
    [
        ([one_example()] * 3, SHAPE, "3 examples for 2 slots"),
        ([one_example(num_nodes=5)], SHAPE, "5 atoms"),
        ([one_example(num_edges=13)], SHAPE, "13 edges for 12 slots"),
        ([one_example(num_tokens=6)], SHAPE, "6 tokens"),
        (
            [one_example()],
            dataclasses.replace(SHAPE, graph_views=2),
            "example 7 has 1 crystal and 1 text views, 2 and 1 are needed",
        ),
    ],
)
def test_examples_that_do_not_fit_are_refused_with_the_reason(examples, shape, reason):
    assert reason in misfit(examples, shape)
    with pytest.raises(BatchShapeError, match=reason):
        collate(examples, shape)


def test_examples_that_fit_have_no_misfit():
    assert misfit([one_example()] * 2, SHAPE) is None


def test_small_sequences_share_tiles_and_large_ones_go_first():
    rng = np.random.default_rng(0)
    sizes = [2, 9, 3, 4]
    examples = [
        ExampleViews(k, (random_graph(rng, n, 0),), (random_text(rng, 1),))
        for k, n in enumerate(sizes)
    ]
    shape = BatchShape(4, 1, 1, ((9, 2),), 0, ((4, 1),))
    index = collate(examples, shape).graphs.crystal_index.reshape(2, 9)
    tiles = sorted(sorted(set(tile.tolist()) - {4}) for tile in index)
    assert tiles == [[0, 2, 3], [1]]


def test_labels_are_absent_without_a_language_model_loss():
    example = one_example()
    plain = dataclasses.replace(example, tokens=(TokenView(example.tokens[0].ids),))
    assert collate([plain], SHAPE).texts.labels is None
