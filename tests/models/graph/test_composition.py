"""The composition encoder, which sees elements and cell only."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from helpers.parity_fixtures import Fixture, crystal_graphs, graph_batch, one_view_shape

from clac_jax.models.graph.composition import CompositionSettings, WithComposition, cell_features
from clac_jax.models.graph.painn import PaiNNSettings


def test_cell_features_are_sizes_ratios_and_cosines_and_their_gaussians():
    lattice = np.array([[2.0, 0, 0], [1.5, 1.5 * 3**0.5, 0], [0, 0, 4]], np.float32)
    ours = cell_features(lattice[None], jnp.array([3.0]), jnp.array([60.0]))[0]
    volume = 12 * 3**0.5
    expected = [
        *np.log([3, volume / 3, 60 * 1.66053906660 / volume, 3 / 2, 4 / 2]),
        *(0, 0, 0.5),
    ]
    np.testing.assert_allclose(ours[:8], expected, rtol=1e-5, atol=1e-6)
    smeared = np.split(ours[8:], np.cumsum([24, 24, 24, 16, 16, 16, 16]))
    for values, number, (low, high) in zip(
        smeared,
        expected,
        [(0, 5), (1.5, 4.5), (-0.7, 3.2), *[(-1.2, 1.2)] * 2, *[(-0.7, 1)] * 3],
        strict=True,
    ):
        centres = np.linspace(low, high, len(values))
        gap = centres[1] - centres[0]
        gaussians = np.exp(-(((number - centres) / gap) ** 2) / 2)
        np.testing.assert_allclose(values, gaussians, rtol=1e-4, atol=1e-5)


def test_it_sees_composition_and_cell_but_no_arrangement():
    graphs = crystal_graphs(Fixture("painn_small").section("in"))
    model = CompositionSettings(num_features=8, out_dim=4).build()
    batch = graph_batch(graphs)
    variables = jax.jit(model.init)(jax.random.key(0), batch)
    plain = jax.jit(model.apply)(variables, batch)
    assert np.linalg.norm(plain[0] - plain[1]) > 1e-3
    moved = [dataclasses.replace(g, edge_vectors=g.edge_vectors * 1.5) for g in graphs]
    np.testing.assert_array_equal(jax.jit(model.apply)(variables, graph_batch(moved)), plain)
    stretched = [dataclasses.replace(g, lattice=g.lattice * 1.1) for g in graphs]
    assert np.abs(jax.jit(model.apply)(variables, graph_batch(stretched)) - plain).max() > 1e-3


def test_padding_changes_nothing():
    graphs = crystal_graphs(Fixture("painn_small").section("in"))
    num_edges = sum(len(g.senders) for g in graphs)
    model = CompositionSettings(num_features=8, out_dim=4).build()
    tight, loose = (
        graph_batch(graphs, one_view_shape(n, tiles, num_edges))
        for n, tiles in ((3, ((22, 1),)), (5, ((30, 3),)))
    )
    variables = jax.jit(model.init)(jax.random.key(0), tight)
    padded = jax.jit(model.apply)(variables, loose)
    np.testing.assert_allclose(
        padded[:3], jax.jit(model.apply)(variables, tight), rtol=1e-5, atol=1e-6
    )
    assert np.isfinite(padded).all()


def test_added_to_another_encoder_it_is_their_sum():
    batch = graph_batch(crystal_graphs(Fixture("painn_small").section("in")))
    painn = PaiNNSettings(num_features=8, num_interactions=1, out_dim=4).build()
    composition = CompositionSettings(num_features=8, out_dim=4).build()
    both = WithComposition(painn, composition)
    variables = jax.jit(both.init)(jax.random.key(0), batch)
    parts = [
        jax.jit(encoder.apply)({"params": variables["params"][name]}, batch)
        for name, encoder in (("encoder", painn), ("composition", composition))
    ]
    np.testing.assert_allclose(jax.jit(both.apply)(variables, batch), sum(parts), rtol=1e-6)
