"""The shapes to which batches are padded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.crystals.graph import CrystalGraph
from clac_jax.input_pipeline.batch import BatchShapeError, collate, misfit
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.input_pipeline.sample import Sample
from clac_jax.input_pipeline.shape_plan import Planning, ShapePlan


def example(index, num_nodes, num_edges, num_tokens):
    graph = CrystalGraph(
        atomic_numbers=np.ones(num_nodes, np.int32),
        senders=np.zeros(num_edges, np.int32),
        receivers=np.zeros(num_edges, np.int32),
        edge_vectors=np.ones((num_edges, 3), np.float32),
        lattice=np.eye(3, dtype=np.float32),
    )
    tokens = TokenView(np.ones(num_tokens, np.int32))
    return ExampleViews(index, (graph, graph), (tokens,))


def sample(rng, count=200):
    sizes = np.minimum(rng.geometric(0.1, count), 60)
    return [example(k, int(n), int(20 * n), int(rng.integers(10, 64))) for k, n in enumerate(sizes)]


def atoms_of(examples, *more):
    """The sizes of all crystals, as a plan sees them: the sample and some larger crystals."""
    return np.array([len(e.graphs[0].atomic_numbers) for e in examples] + [*more])


def orders(examples, number=20):
    """The number of atoms of each crystal, in the order of several epochs."""
    rng = np.random.default_rng(2)
    return np.concatenate([rng.permutation(atoms_of(examples)) for _ in range(number)])


def test_most_batches_take_a_planned_shape_and_all_fit_one():
    rng = np.random.default_rng(0)
    examples = sample(rng)
    plan = ShapePlan(Sample.of(examples), 16, 64, orders(examples))
    assert 1 <= len(plan.planned) <= 4
    chosen = []
    for _ in range(100):
        batch = [examples[k] for k in rng.choice(len(examples), 16)]
        shape = plan.choose([batch])
        assert misfit(batch, shape) is None
        collate(batch, shape)
        chosen.append(shape)
    assert sum(shape in plan.planned for shape in chosen) > 95
    assert len(set(chosen)) <= 4


def test_more_shapes_are_planned_where_they_save_padding():
    examples = sample(np.random.default_rng(0))
    rng, atoms = np.random.default_rng(1), orders(examples)
    few = ShapePlan(Sample.of(examples), 16, 64, atoms, Planning(max_programs=2))
    plan = ShapePlan(Sample.of(examples), 16, 64, atoms)
    assert len(few.planned) == 2 < len(plan.planned)
    short = ShapePlan(Sample.of(examples), 16, 64, atoms, Planning(num_batches=8))
    assert len(short.planned) < len(plan.planned)  # compiling would cost more than it saves
    assert np.mean(plan.padding_share) < np.mean(few.padding_share) - 0.04

    def slots(shape):
        return np.array([shape.num_nodes, shape.num_edges, shape.num_tokens])

    batches = [[examples[k] for k in rng.choice(len(examples), 16)] for _ in range(200)]
    used = np.mean([slots(plan.choose([batch])) for batch in batches], axis=0)
    real = np.mean(
        [
            [
                2 * sum(len(e.graphs[0].atomic_numbers) for e in batch),
                2 * sum(len(e.graphs[0].senders) for e in batch),
                sum(len(e.tokens[0].ids) for e in batch),
            ]
            for batch in batches
        ],
        axis=0,
    )
    np.testing.assert_allclose(1 - real / used, plan.padding_share, atol=0.05)


@settings(deadline=None, max_examples=30)
@given(seeds=st.tuples(st.integers(0, 999), st.integers(0, 999)), large=st.integers(1, 80))
def test_the_larger_of_two_sizes_fits_both_parts(seeds, large):
    """Processes agree on a plan, although each knows only its own part of a batch."""
    examples = sample(np.random.default_rng(0))
    plan = ShapePlan(Sample.of(examples), 4, 150, atoms_of(examples, 80))
    parts = [sample(np.random.default_rng(seed), 4) for seed in seeds]
    parts[0][0] = example(0, large, 30 * large, 150)
    shape = plan.shape(max(plan.number_of([part]) for part in parts))
    assert [misfit(part, shape) for part in parts] == [None, None]
    assert plan.choose(parts) == shape


def test_an_outlier_batch_gets_a_larger_shape_and_always_the_same():
    examples = sample(np.random.default_rng(0))
    plan = ShapePlan(Sample.of(examples), 4, 150, atoms_of(examples, 200))
    outlier = [example(k, 200, 9000, 150) for k in range(4)]
    shape = plan.choose([outlier])
    assert shape not in plan.planned
    assert shape == plan.choose([outlier])
    collate(outlier, shape)


def test_a_longer_text_than_any_in_the_sample_adds_few_shapes():
    examples = sample(np.random.default_rng(0))
    plan = ShapePlan(Sample.of(examples), 4, 256, atoms_of(examples))
    outliers = [[*examples[:3], example(9, 10, 100, tokens)] for tokens in range(64, 257, 8)]
    shapes = {plan.choose([batch]) for batch in outliers}
    assert len(shapes - set(plan.planned)) <= 1


def test_a_crystal_larger_than_all_is_refused():
    examples = sample(np.random.default_rng(0))
    plan = ShapePlan(Sample.of(examples), 4, 64, atoms_of(examples))
    with pytest.raises(BatchShapeError, match="a crystal of 99 atoms"):
        plan.choose([[example(0, 99, 100, 20)]])


def test_all_parts_take_one_shape():
    examples = sample(np.random.default_rng(0))
    plan = ShapePlan(Sample.of(examples), 4, 150, atoms_of(examples))
    small, large = examples[:4], [example(k, 60, 1200, 63) for k in range(4)]
    shape = plan.choose([small, large])
    assert misfit(small, shape) is None
    assert misfit(large, shape) is None


def test_a_plan_depends_only_on_its_arguments():
    examples = sample(np.random.default_rng(1))
    plans = [
        ShapePlan(Sample.of(examples), 8, 64, atoms_of(examples), Planning(seed=5))
        for _ in range(2)
    ]
    assert plans[0].planned == plans[1].planned


def test_an_empty_part_fits_any_shape():
    examples = sample(np.random.default_rng(0))
    plan = ShapePlan(Sample.of(examples), 4, 150, atoms_of(examples))
    batch = collate([], plan.choose([[]]))
    assert not batch.example_mask.any()


def test_crystals_up_to_the_largest_known_add_one_shape():
    examples = sample(np.random.default_rng(0))
    plan = ShapePlan(Sample.of(examples), 4, 64, atoms_of(examples, 128))
    outliers = [
        [*examples[:2], example(8, other, 100, 20), example(9, atoms, 100, 20)]
        for atoms in range(64, 129, 8)
        for other in (90, 128)
    ]
    assert len({plan.choose([batch]) for batch in outliers} - set(plan.planned)) <= 1


def test_batches_that_follow_an_order_are_planned_for():
    """Some batches hold far larger crystals than others, such as those of one composition."""
    rng = np.random.default_rng(0)
    atoms = np.repeat([8, 8, 8, 8, 40, 8, 8, 8], 64)
    examples = [
        example(k, int(n), int(20 * n), 20) for k, n in enumerate(rng.permutation(atoms)[:200])
    ]
    plan = ShapePlan(Sample.of(examples), 64, 64, atoms)
    of_one_kind = [[example(k, n, 20 * n, 20) for k in range(64)] for n in (8, 40)]
    small, large = (plan.choose([batch]) for batch in of_one_kind)
    assert {small, large} <= set(plan.planned)
    assert small.num_nodes < 1.1 * 2 * 64 * 8 < large.num_nodes
    assert max(plan.padding_share[:2]) < 0.15
