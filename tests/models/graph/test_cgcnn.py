"""CGCNN, compared with the reference."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity_fixtures import (
    GRADIENT_TOLERANCE,
    OUTPUT_TOLERANCE,
    PARITY,
    Fixture,
    crystal_graphs,
    graph_batch,
    one_view_shape,
    relative_error,
    tree_errors,
)

from clac_jax.input_pipeline.batch import BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.models.graph import cgcnn
from clac_jax.models.graph.cgcnn import CGCNNSettings, edge_features
from clac_jax.models.torch_layout import TensorReader

SETTINGS = CGCNNSettings(atom_fea_len=32, nbr_fea_len=16, n_conv=2, h_fea_len=32, n_h=1, out_dim=16)
MODEL = SETTINGS.build()


def params_of(section):
    return SETTINGS.release_params(TensorReader(section))


def statistics_of(section):
    return SETTINGS.release_statistics(TensorReader(section))


def reference_edge_features(distances, num_centers, cutoff):
    fixture = Fixture("cgcnn_eval")
    centers = jnp.asarray(fixture.section("w")["rbf.centers"].astype(np.float64))
    gamma = json.loads((PARITY / "cgcnn_eval.json").read_text())["rbf"]["gamma"]
    gaussians = jnp.exp(-gamma * (distances[:, None] - centers) ** 2)
    return gaussians * jnp.cos(distances[:, None] / cutoff * (np.pi / 2))


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("dtype", "suffix"), [(np.float32, ""), (np.float64, "64")])
def test_output_gradients_and_statistics_equal_the_reference(mode, dtype, suffix, monkeypatch):
    fixture = Fixture(f"cgcnn_{mode}")
    if dtype is np.float64:
        # The reference keeps its centers and gamma in float32 even here; float64 differs by 4e-9.
        monkeypatch.setattr(cgcnn, "edge_features", reference_edge_features)
    with jax.enable_x64(dtype is np.float64):
        weights = fixture.section("w", dtype)
        params, stats = params_of(weights), statistics_of(weights)
        if mode == "train":
            # The statistics among these weights were stored after the call; the initial ones are
            # in the other fixture.
            stats = statistics_of(Fixture("cgcnn_eval").section("w", dtype))
        graphs = graph_batch(crystal_graphs(fixture.section("in")), dtype=dtype)

        def loss(params):
            y, updated = MODEL.apply(
                {"params": params, "batch_stats": stats},
                graphs,
                train=mode == "train",
                mutable=["batch_stats"],
            )
            return jnp.sum(y**2), (y, updated)

        (_, (y, updated)), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        assert y.dtype == dtype
        assert relative_error(y, fixture.section("out" + suffix)["y"]) < OUTPUT_TOLERANCE[dtype]
        expected = params_of(fixture.section("grad" + suffix))
        for path, error in tree_errors(grads, expected):
            assert error < GRADIENT_TOLERANCE[dtype], path
        after = statistics_of(fixture.section("after"))
        for path, error in tree_errors(updated["batch_stats"], after):
            assert error < 2e-5, path


def test_each_view_is_normalized_separately():
    fixture = Fixture("cgcnn_train")
    weights = fixture.section("w")
    variables = {"params": params_of(weights), "batch_stats": statistics_of(weights)}
    graphs = crystal_graphs(fixture.section("in"))
    views = [graphs[:2], graphs[1:]]
    num_edges = sum(len(graph.senders) for view in views for graph in view)
    text = (TokenView(np.array([1], np.int32)),)
    shape = BatchShape(3, 2, 1, ((16, 6),), num_edges + 7, ((4, 3),))
    batch = collate([ExampleViews(k, (views[0][k], views[1][k]), text) for k in (0, 1)], shape)

    @jax.jit
    def encode(variables, graphs):
        return MODEL.apply(variables, graphs, train=True, mutable=["batch_stats"])

    together, after = encode(variables, batch.graphs)
    for view in (0, 1):
        separate, updated = encode(variables, graph_batch(views[view]))
        np.testing.assert_allclose(
            together[3 * view : 3 * view + 2], separate, rtol=1e-5, atol=1e-6
        )
        variables = {**variables, **updated}
    for path, error in tree_errors(after, {"batch_stats": variables["batch_stats"]}):
        assert error < 1e-5, path


def test_padding_changes_nothing():
    fixture = Fixture("cgcnn_train")
    weights = fixture.section("w")
    variables = {"params": params_of(weights), "batch_stats": statistics_of(weights)}
    graphs = crystal_graphs(fixture.section("in"))
    num_edges = sum(len(graph.senders) for graph in graphs)

    @jax.jit
    def encode(graphs):
        return MODEL.apply(variables, graphs, train=True, mutable=["batch_stats"])[0]

    tight = encode(graph_batch(graphs, one_view_shape(3, ((22, 1),), num_edges)))
    loose = encode(graph_batch(graphs, one_view_shape(6, ((20, 4),), num_edges + 500)))
    np.testing.assert_allclose(loose[:3], tight, rtol=1e-5, atol=1e-6)


def test_edge_features_are_the_formula():
    d = np.array([0.0, 1.3, 4.0, 8.0], np.float32)
    ours = np.asarray(edge_features(jnp.asarray(d), num_centers=5, cutoff=8.0))
    for row, distance in zip(ours, d, strict=True):
        expected = [
            np.exp(-0.5 * (distance - center) ** 2) * np.cos(np.pi * distance / 16)
            for center in (0, 2, 4, 6, 8)
        ]
        np.testing.assert_allclose(row, expected, atol=1e-6)
