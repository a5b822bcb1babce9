"""PaiNN, compared with the reference."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity_fixtures import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    Fixture,
    crystal_graphs,
    graph_batch,
    one_view_shape,
    relative_error,
    tree_errors,
)

from clac_jax.crystals.graph import CrystalGraph
from clac_jax.models.graph import painn
from clac_jax.models.graph.painn import PaiNNSettings, basis_product, radial_basis
from clac_jax.models.torch_layout import TensorReader

SETTINGS = PaiNNSettings(num_features=32, num_interactions=2, num_rbf=20, cutoff=5.0, out_dim=32)
MODEL = SETTINGS.build()


def params_of(section):
    return SETTINGS.release_params(TensorReader(section))


@pytest.fixture(scope="module")
def fixture():
    return Fixture("painn_small")


@pytest.fixture(scope="module")
def params(fixture):
    return params_of(fixture.section("w"))


def reference_radial_basis(distances, cutoff, num_rbf):
    frequencies = Fixture("painn_small").section("w")["list_message.0.RBF.freqs"]
    assert len(frequencies) == num_rbf
    d = distances[:, None]
    envelope = jnp.where(d < cutoff, 0.5 * (jnp.cos(jnp.pi * d / cutoff) + 1), 0)
    waves = jnp.sin(frequencies.astype(np.float64) * d) / d
    return jnp.concatenate([waves * envelope, envelope], axis=1)


@pytest.mark.parametrize(("dtype", "suffix"), [(np.float32, ""), (np.float64, "64")])
def test_output_and_gradients_equal_the_reference(fixture, dtype, suffix, monkeypatch):
    if dtype is np.float64:
        # The reference keeps its frequencies in float32 even here; float64 differs by 7e-8.
        monkeypatch.setattr(painn, "radial_basis", reference_radial_basis)
    with jax.enable_x64(dtype is np.float64):
        params = params_of(fixture.section("w", dtype))
        graphs = graph_batch(crystal_graphs(fixture.section("in")), dtype=dtype)

        def loss(params):
            y = MODEL.apply({"params": params}, graphs)
            return jnp.sum(y**2), y

        (_, y), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        assert y.dtype == dtype
        assert relative_error(y, fixture.section("out" + suffix)["y"]) < OUTPUT_TOLERANCE[dtype]
        expected = params_of(fixture.section("grad" + suffix))
        for path, error in tree_errors(grads, expected):
            assert error < GRADIENT_TOLERANCE[dtype], path


def test_packing_and_padding_change_nothing(fixture, params):
    graphs = crystal_graphs(fixture.section("in"))
    sizes = [len(graph.atomic_numbers) for graph in graphs]
    num_edges = sum(len(graph.senders) for graph in graphs)
    encode = jax.jit(lambda graphs: MODEL.apply({"params": params}, graphs))
    separate = [encode(graph_batch([graph]))[0] for graph in graphs]
    layouts = [
        ((max(sizes), 3),),
        ((sum(sizes), 1),),
        ((min(sizes), 1), (max(sizes), 2), (40, 1)),
    ]
    for tiles in layouts:
        shape = one_view_shape(5, tiles, num_edges + 100)
        together = encode(graph_batch(graphs, shape))
        np.testing.assert_allclose(together[:3], np.stack(separate), rtol=2e-5, atol=2e-6)
        np.testing.assert_array_equal(together[3:], 0)


def test_edges_from_the_cutoff_on_change_nothing(fixture, params):
    graphs = crystal_graphs(fixture.section("in"))
    short = []
    for graph in graphs:
        near = np.linalg.norm(graph.edge_vectors, axis=1) < 5.0
        assert not near.all()
        short.append(
            dataclasses.replace(
                graph,
                senders=graph.senders[near],
                receivers=graph.receivers[near],
                edge_vectors=graph.edge_vectors[near],
            )
        )
    encode = jax.jit(lambda graphs: MODEL.apply({"params": params}, graphs))
    np.testing.assert_allclose(
        encode(graph_batch(short)), encode(graph_batch(graphs)), rtol=1e-5, atol=1e-6
    )


def rotated(graph, rotation):
    return dataclasses.replace(
        graph, edge_vectors=(graph.edge_vectors @ rotation.T).astype(np.float32)
    )


def test_a_rotated_or_reflected_crystal_has_the_same_vector(fixture, params):
    graphs = crystal_graphs(fixture.section("in"))
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    encode = jax.jit(lambda graphs: MODEL.apply({"params": params}, graphs))
    before = encode(graph_batch(graphs))
    for matrix in (rotation, -rotation):
        after = encode(graph_batch([rotated(graph, matrix) for graph in graphs]))
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    stretched = encode(graph_batch([rotated(graph, 1.1 * rotation) for graph in graphs]))
    assert relative_error(stretched, before) > 1e-3


@pytest.mark.parametrize("num_zero_edges", [0, 1])
def test_values_and_gradients_are_finite_without_edges_and_at_zero_distance(params, num_zero_edges):
    lonely = CrystalGraph(
        atomic_numbers=np.array([29], np.int32),
        senders=np.zeros(num_zero_edges, np.int32),
        receivers=np.zeros(num_zero_edges, np.int32),
        edge_vectors=np.zeros((num_zero_edges, 3), np.float32),
        lattice=20 * np.eye(3, dtype=np.float32),
    )
    graphs = graph_batch([lonely])

    def loss(params):
        return jnp.sum(MODEL.apply({"params": params}, graphs) ** 2)

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert value > 0
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(grads))


def test_radial_basis_is_the_formula():
    d = np.array([0.0, 0.7, 2.5, 4.999, 5.0, 7.0], np.float32)
    basis = np.asarray(radial_basis(jnp.asarray(d), cutoff=5.0, num_rbf=3))
    for row, distance in zip(basis, d, strict=True):
        envelope = (np.cos(np.pi * distance / 5) + 1) / 2 if distance < 5 else 0.0
        waves = [np.sin(n * np.pi * distance / 5) / (distance or 1) for n in (1, 2, 3)]
        np.testing.assert_allclose(row, [*(np.array(waves) * envelope), envelope], atol=2e-6)


def test_basis_product_is_the_sum_and_its_gradients_are_right():
    rng = np.random.default_rng(1)
    sizes = (4, 2, 9, 3), (2, 3, 5), (4, 5)
    basis, x, weights = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in sizes)

    def plain(x, weights):
        return jnp.einsum("knst,ntc,kc->nsc", basis, x, weights)

    def ours(x, weights):
        return basis_product(basis, x, weights)

    np.testing.assert_allclose(ours(x, weights), plain(x, weights), rtol=1e-5, atol=1e-5)
    pull_ours, pull_plain = (jax.vjp(f, x, weights)[1] for f in (ours, plain))
    grad = jnp.asarray(rng.normal(size=(2, 9, 5)), jnp.float32)
    for a, b in zip(pull_ours(grad), pull_plain(grad), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
