"""The examples to blame, found by computing the batch with some of its examples."""

import math

import numpy as np
import pytest
from helpers.crystals import rock_salt

from clac_jax.crystals.graph import build_graph
from clac_jax.healing.culprits import above, describe_views, not_finite
from clac_jax.input_pipeline.example import ExampleViews

EXAMPLES = [10, 11, 12, 13, 14, 15]


def sums(**losses):
    """A batch whose loss is the sum of the losses of its examples, 1 by default."""
    return lambda kept: (sum(losses.get(f"e{each}", 1.0) for each in kept), 1.0)


def indices(found):
    return [each.index for each in found]


def test_examples_that_are_not_finite_on_their_own():
    found = not_finite(EXAMPLES, sums(e12=math.nan, e14=math.inf), most=4)
    assert indices(found) == [12, 14] and math.isnan(found[0].loss)


def test_many_of_them_blame_the_parameters():
    assert not_finite(EXAMPLES, lambda kept: (math.nan, math.nan), most=4) == []
    assert not_finite(EXAMPLES, sums(e12=math.nan, e14=math.nan), most=1) == []


def test_an_example_that_is_not_finite_only_with_others():
    def probe(kept):
        return (math.nan if 13 in kept and len(kept) > 2 else 1.0), 1.0

    assert indices(not_finite(EXAMPLES, probe, most=2)) == [13]


def test_the_fewest_examples_without_which_a_loss_is_usual():
    assert indices(above(EXAMPLES, sums(e11=50.0), 10.0, most=4)) == [11]
    found = above(EXAMPLES, sums(e11=50.0, e15=70.0), 10.0, most=4)
    assert indices(found) == [15, 11] and found[-1].loss == 4.0
    assert above(EXAMPLES, sums(e11=50.0, e15=70.0), 10.0, most=1) == []


@pytest.mark.filterwarnings("error")
def test_describes_the_unusual_in_an_example():
    graph = build_graph(rock_salt(), 3.0)
    assert "shortest distance" in describe_views(ExampleViews(0, (graph,), ()))
    object.__setattr__(graph, "edge_vectors", np.full_like(graph.edge_vectors, np.nan))
    said = describe_views(ExampleViews(0, (graph,), (), label=1e39))
    assert "coordinates that are not finite" in said
    assert "label 1e+39, not finite as float32" in said
