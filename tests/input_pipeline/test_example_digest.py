"""The digest of a batch: of what the model receives, however it is packed and divided."""

import dataclasses

import numpy as np
import pytest

from clac_jax.crystals.descriptors import CELL_NUMBERS, SITE_NUMBERS, Descriptors
from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.input_pipeline.example_digest import BATCH_DIGESTS, digested


def an_example(index=3, seed=0):
    rng = np.random.default_rng(seed)
    graph = CrystalGraph(
        atomic_numbers=rng.integers(1, 90, 4).astype(np.int32),
        senders=rng.integers(0, 4, 9).astype(np.int32),
        receivers=rng.integers(0, 4, 9).astype(np.int32),
        edge_vectors=rng.normal(size=(9, 3)).astype(np.float32),
        lattice=np.eye(3, dtype=np.float32),
    )
    tokens = TokenView(rng.integers(0, 99, 5).astype(np.int32), np.full(5, -100, np.int32))
    return ExampleViews(index, (graph, graph), (tokens,))


def with_structure(example):
    """The example with descriptors of its crystal, and with a number in its text."""
    cell, sites = np.ones(CELL_NUMBERS, np.float32), np.ones((4, SITE_NUMBERS), np.float32)
    described = Descriptors(225, cell, sites)
    (tokens,) = example.tokens
    numbers = np.array([np.nan, 2.08, 2.08, np.nan, np.nan], np.float32)
    return dataclasses.replace(
        example,
        graphs=tuple(dataclasses.replace(g, descriptors=described) for g in example.graphs),
        tokens=(dataclasses.replace(tokens, numbers=numbers),),
    )


def changed(example):
    """Variants of an example -> the digest that must change, and only that."""
    graph, view = example.graphs[0], example.tokens[0]
    vectors = graph.edge_vectors.copy()
    vectors.view(np.uint32)[8, 2] ^= 1
    labels = view.labels.copy()
    labels[2] = 7
    return {
        "index": (dataclasses.replace(example, index=4), "ids"),
        "a bit of a vector": (
            dataclasses.replace(
                example, graphs=(graph, dataclasses.replace(graph, edge_vectors=vectors))
            ),
            "crystals",
        ),
        "one view fewer": (dataclasses.replace(example, graphs=(graph,)), "crystals"),
        "a label of a token": (
            dataclasses.replace(example, tokens=(TokenView(view.ids, labels),)),
            "texts",
        ),
        "no labels": (dataclasses.replace(example, tokens=(TokenView(view.ids),)), "texts"),
    }


@pytest.mark.parametrize("what", changed(an_example()))
def test_each_digest_is_of_its_own_part(what):
    other, name = changed(an_example())[what]
    before, after = digested(an_example(), 0).digests, digested(other, 0).digests
    unequal = [BATCH_DIGESTS[k] for k in range(3) if not np.array_equal(before[k], after[k])]
    assert unequal == [name]


def changed_structure(example):
    """Variants of an example `with_structure` -> the digest that must change, and only that."""
    (view,), (first, second) = example.tokens, example.graphs

    def described(**changes):
        described = dataclasses.replace(second.descriptors, **changes)
        return dataclasses.replace(
            example, graphs=(first, dataclasses.replace(second, descriptors=described))
        )

    def numbered(numbers):
        return dataclasses.replace(example, tokens=(dataclasses.replace(view, numbers=numbers),))

    def with_bit(array, place):
        copy = array.copy()
        copy.view(np.uint32)[place] ^= 1
        return copy

    sites, cell = second.descriptors.sites, second.descriptors.cell
    return {
        "space group": (described(space_group=166), "crystals"),
        "a bit of the cell": (described(cell=with_bit(cell, 9)), "crystals"),
        "a bit of a site": (described(sites=with_bit(sites, (3, 217))), "crystals"),
        "a bit of a value": (numbered(with_bit(view.numbers, 1)), "texts"),
        "a value elsewhere": (numbered(np.roll(view.numbers, 1)), "texts"),
        "no values": (numbered(None), "texts"),
    }


@pytest.mark.parametrize("what", changed_structure(with_structure(an_example())))
def test_descriptors_and_numbers_are_part_of_the_digests(what):
    example = with_structure(an_example())
    other, name = changed_structure(example)[what]
    before, after = digested(example, 0).digests, digested(other, 0).digests
    unequal = [BATCH_DIGESTS[k] for k in range(3) if not np.array_equal(before[k], after[k])]
    assert unequal == [name]


def test_two_examples_that_change_places_are_seen():
    one, other = an_example(1, seed=1), an_example(2, seed=2)
    before = digested(one, 0).digests + digested(other, 1).digests
    after = digested(other, 0).digests + digested(one, 1).digests
    assert np.all(np.any(before != after, axis=1))
