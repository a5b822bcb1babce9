"""The encoder of descriptors."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from helpers.small_models import batch_of, examples, small_config, with_structure

from clac_jax.config.schema import default_config
from clac_jax.crystals.descriptors import NEIGHBOURS
from clac_jax.input_pipeline.example import ExampleViews
from clac_jax.models import ModelError
from clac_jax.models.encoders import build_graph_encoder, with_pretrained_graph_encoder
from clac_jax.models.graph import composition
from clac_jax.models.graph.descriptors import (
    DescriptorEncoder,
    DescriptorSettings,
    WithDescriptors,
)

# Reduced optimization: everything runs once.
FAST = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
MODEL = DescriptorEncoder(DescriptorSettings(num_features=8, out_dim=4))


def plain(changes=None, views=1):
    """Three examples; `changes` apply to the descriptors in the second one."""
    result = with_structure(examples(views))
    if changes is not None:
        (graph,) = result[1].graphs
        described = dataclasses.replace(graph.descriptors, **changes)
        graph = dataclasses.replace(graph, descriptors=described)
        result[1] = dataclasses.replace(result[1], graphs=(graph,))
    return result


@pytest.fixture(scope="module")
def encode():
    """Examples -> the vectors of their crystals."""
    batch = batch_of(plain(), num_views=1)
    variables = jax.jit(MODEL.init, compiler_options=FAST)(jax.random.key(0), batch.graphs)
    apply = jax.jit(MODEL.apply, compiler_options=FAST)

    def encode(examples_, **shape):
        return np.asarray(apply(variables, batch_of(examples_, num_views=1, **shape).graphs))

    return encode


def test_each_descriptor_counts_for_its_crystal_only(encode):
    before = encode(plain())
    assert before.shape == (3, 4)
    described = plain()[1].graphs[0].descriptors
    cell, sites = described.cell.copy(), described.sites.copy()
    cell[3] *= 1.05
    changes = [{"space_group": described.space_group % 230 + 1}, {"cell": cell}]
    # A distance, the size of the first shell, a share of its angles, an element, the last number.
    for column in (0, NEIGHBOURS, NEIGHBOURS + 1, NEIGHBOURS + 30, sites.shape[1] - 1):
        changed = sites.copy()
        changed[0, column] += 0.5
        changes.append({"sites": changed})
    for change in changes:
        after = encode(plain(change))
        assert np.abs(after[1] - before[1]).max() > 1e-5
        np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])


def test_the_order_of_the_atoms_does_not_count(encode):
    before, (first, second, third) = encode(plain()), plain()
    order = np.random.default_rng(2).permutation(len(second.graphs[0].atomic_numbers))
    (graph,) = second.graphs
    described = dataclasses.replace(graph.descriptors, sites=graph.descriptors.sites[order])
    graph = dataclasses.replace(
        graph, atomic_numbers=graph.atomic_numbers[order], descriptors=described
    )
    second = dataclasses.replace(second, graphs=(graph,))
    np.testing.assert_allclose(encode([first, second, third]), before, rtol=1e-5, atol=1e-6)


def test_padding_changes_nothing(encode):
    first, second, third = plain()
    left_out = ExampleViews.left_out(with_labels=False)
    padded = encode([first, left_out, second, third], num_examples=6, spare=5)
    assert np.isfinite(padded).all()
    np.testing.assert_allclose(padded[[0, 2, 3]], encode(plain()), rtol=1e-5, atol=1e-6)


def test_a_batch_has_the_descriptors_in_the_slots_of_their_atoms():
    views = plain(views=2)
    batch = batch_of(views, num_examples=4, spare=3).graphs
    for view in range(2):
        for place, example in enumerate(views):
            row, described = view * 4 + place, example.graphs[view].descriptors
            assert batch.descriptors.space_group[row] == described.space_group
            np.testing.assert_array_equal(batch.descriptors.cell[row], described.cell)
            own = batch.descriptors.sites[batch.crystal_index == row]
            np.testing.assert_array_equal(own, described.sites)
    assert not batch.descriptors.space_group[3] and np.all(batch.descriptors.cell[3] == 1)
    assert np.all(batch.descriptors.sites[batch.crystal_index == 8] == 1)
    assert batch_of(examples()).graphs.descriptors is None


def test_a_batch_without_descriptors_is_refused():
    graphs = batch_of(examples(1), num_views=1).graphs
    with pytest.raises(ModelError, match=r"needs descriptors .* the batch has none. Make it with"):
        jax.eval_shape(MODEL.init, jax.random.key(0), graphs)


def test_added_to_another_encoder_it_is_their_sum():
    graphs = batch_of(plain(), num_views=1).graphs
    other = composition.CompositionSettings(num_features=8, out_dim=4).build()
    both = WithDescriptors(other, MODEL)
    variables = jax.jit(both.init, compiler_options=FAST)(jax.random.key(0), graphs)
    parts = [
        jax.jit(encoder.apply, compiler_options=FAST)({"params": variables["params"][name]}, graphs)
        for name, encoder in (("encoder", other), ("descriptors", MODEL))
    ]
    np.testing.assert_allclose(
        jax.jit(both.apply, compiler_options=FAST)(variables, graphs),
        sum(parts),
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("add_composition", [True, False])
def test_the_config_adds_it_on_top(monkeypatch, add_composition):
    config = small_config(
        **{
            "graph_encoder.add_descriptors": True,
            "graph_encoder.add_composition": add_composition,
            "graph_encoder.name": "orb",
            "graph_encoder.pretrained": "orb.ckpt",
        }
    )
    encoder = build_graph_encoder(config)
    assert isinstance(encoder, WithDescriptors)
    assert isinstance(encoder.encoder, composition.WithComposition) == add_composition
    assert not isinstance(build_graph_encoder(default_config()), WithDescriptors)
    # Pretrained weights are those of the innermost encoder.
    inner = {"encoder": {"old": 0.0}, "composition": {"kept": 1.0}} if add_composition else {}
    params = {"graph_encoder": {"encoder": inner, "descriptors": {"kept": 2.0}}, "heads": {}}
    kind = type(encoder.encoder.encoder if add_composition else encoder.encoder)
    assert kind.__name__ == "Orb"
    settings = "clac_jax.models.graph.orb.OrbSettings.pretrained_params"
    monkeypatch.setattr(settings, lambda *_: {"weights": 7.0})
    loaded = with_pretrained_graph_encoder(params, config)
    expected = {"encoder": {"weights": 7.0}, "composition": {"kept": 1.0}}
    assert loaded == {
        "graph_encoder": {
            "encoder": expected if add_composition else {"weights": 7.0},
            "descriptors": {"kept": 2.0},
        },
        "heads": {},
    }
