"""ORB v3, compared with the outputs of orb-models."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.parity_fixtures import TORCH, Fixture, graph_batch, relative_error, tree_errors
from helpers.small_models import batch_of, examples, small_config
from helpers.torch_writer import save
from scipy.special import sph_harm_y

from clac_jax.crystals.graph import CrystalGraph
from clac_jax.errors import UserError
from clac_jax.models import build_model, init_variables
from clac_jax.models.graph.orb import (
    OrbSettings,
    edge_features,
    envelope,
    orb_params,
    spherical_harmonics,
)

# written by tools/torch_references.py
SETTINGS = OrbSettings(num_features=16, hidden_features=24, num_interactions=2)
MODEL = SETTINGS.build()


@pytest.fixture(scope="module")
def fixture():
    return Fixture("orb_v3", TORCH)


def graphs_of(arrays):
    graphs = []
    for crystal in range(2):
        nodes = np.flatnonzero(arrays["crystal"] == crystal)
        edges = arrays["crystal"][arrays["senders"]] == crystal
        graphs.append(
            CrystalGraph(
                atomic_numbers=arrays["atomic_numbers"][nodes],
                # There the centre atom sends, here it receives.
                senders=arrays["receivers"][edges] - nodes[0],
                receivers=arrays["senders"][edges] - nodes[0],
                edge_vectors=-arrays["vectors"][edges],
                lattice=np.eye(3, dtype=np.float32) * 9,
            )
        )
    return graphs


def test_equals_orb_models(fixture):
    params = orb_params(fixture.section("w"), SETTINGS)
    graphs = graph_batch(graphs_of(fixture.arrays))

    def loss(params):
        pooled = MODEL.apply({"params": params}, graphs)
        return jnp.sum(pooled**2), pooled

    (_, pooled), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert relative_error(pooled, fixture.arrays["pooled"]) < 2e-5
    # The reference energy is not used, so the decoder is not involved.
    expected = orb_params(fixture.section("grad"), SETTINGS)
    for path, error in tree_errors(grads, expected):
        assert error < 2e-4, path


def test_spherical_harmonics_are_those_of_scipy():
    rng = np.random.default_rng(0)
    units = rng.normal(size=(20, 3))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    # The polar axis of e3nn is y, with x and z around it.
    polar, around = np.arccos(units[:, 1]), np.arctan2(units[:, 0], units[:, 2])
    columns = []
    for degree in range(4):
        for order in range(-degree, degree + 1):
            value = sph_harm_y(degree, abs(order), polar, around)
            part = value.imag if order < 0 else value.real
            sign = (-1) ** order * (np.sqrt(2) if order else 1)
            columns.append(sign * part * np.sqrt(4 * np.pi))
    with jax.enable_x64(True):
        ours = spherical_harmonics(jnp.asarray(units))
    np.testing.assert_allclose(ours, np.stack(columns, axis=1), atol=1e-12)


def test_nothing_comes_from_the_cutoff_and_beyond():
    distances = jnp.array([5.999, 6.0, 7.0])
    assert abs(envelope(distances, 6.0)[0]) < 1e-8
    np.testing.assert_array_equal(envelope(distances, 6.0)[1:], 0)
    vectors = jnp.array([[6.5, 0, 0], [0, 0, 0]])
    assert np.all(np.isfinite(edge_features(vectors, 6.0)))
    np.testing.assert_array_equal(edge_features(vectors, 6.0)[0], 0)


def small_orb(**changes):
    return small_config(
        **{
            "graph_encoder.name": "orb",
            "graph_encoder.num_features": 16,
            "graph_encoder.hidden_features": 24,
            "graph_encoder.num_interactions": 2,
            **changes,
        }
    )


@pytest.mark.slow
@pytest.mark.parametrize("add_composition", [False, True])
def test_a_run_starts_from_a_checkpoint_file(tmp_path, fixture, add_composition):
    path = tmp_path / "orb.ckpt"
    tensors = fixture.section("w")
    save(tensors | {"heads.energy.weight": np.ones(3, np.float32)}, path)
    config = small_orb(
        **{
            "graph_encoder.pretrained": str(path),
            "graph_encoder.add_composition": add_composition,
        }
    )
    batch = batch_of(examples())
    variables = init_variables(build_model(config, vocab_size=200), config, batch)
    encoder = variables["params"]["graph_encoder"]
    encoder = encoder["encoder"] if add_composition else encoder
    jax.tree.map(np.testing.assert_array_equal, encoder, orb_params(tensors, SETTINGS))


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((16, 24, 1), "more than 1 interactions"),
        ((16, 24, 3), r"no tensor model\.gnn_stacks\.2"),
        ((16, 20, 2), r"has shape \(24, 16\) instead of \(20, 16\)"),
    ],
)
def test_a_file_of_other_sizes_is_refused(tmp_path, fixture, sizes, words):
    path = tmp_path / "orb.ckpt"
    save(fixture.section("w"), path)
    features, hidden, steps = sizes
    settings = OrbSettings(num_features=features, hidden_features=hidden, num_interactions=steps)
    with pytest.raises(UserError, match=words):
        settings.pretrained_params(path)
