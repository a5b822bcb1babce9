"""Invariance of graph encoders to translation, rotation, order of atoms and tiling.

Every encoder in the table is tested. Encoders without sizes listed here use the sizes below by name
and their defaults for the rest.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.crystals import random_crystal
from helpers.parity_fixtures import graph_batch, one_view_shape, relative_error
from scipy.spatial.transform import Rotation

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.graph import build_graph
from clac_jax.models.graph import GRAPH_ENCODERS
from clac_jax.models.settings import settings_of

CUTOFF = 4.5
SMALL = {
    "cutoff": CUTOFF,
    "out_dim": 6,
    "num_features": 16,
    "num_interactions": 3,
    "num_rbf": 8,
    "hidden_features": 24,
    "atom_fea_len": 16,
    "nbr_fea_len": 12,
    "n_conv": 2,
    "n_h": 0,  # no perceptron after the pooling, so that the sum stays a sum
}
ENCODERS = {name: settings_of(kind, SMALL).build() for name, kind in GRAPH_ENCODERS.items()}
# ORB sees the direction of a neighbour: it learned rotational symmetry, it does not enforce it.
SEES_DIRECTIONS = ("orb",)
SEEDS = (0, 4, 9)
# ORB compiles longest: its gradients below do not see padding, its other checks are slow.
NAMES = [pytest.param(name, marks=pytest.mark.slow) if name == "orb" else name for name in ENCODERS]
STRUCTURAL = [
    param
    for param, kind in zip(NAMES, GRAPH_ENCODERS.values(), strict=True)
    if not kind.sees_composition
]
EDGES = 420  # space for the edges of all three and their supercells


def crystals():
    return [random_crystal(np.random.default_rng(seed), max_atoms=5) for seed in SEEDS]


def same_atoms(crystal, lattice=None, positions=None):
    return Crystal(
        crystal.lattice if lattice is None else lattice,
        crystal.atomic_numbers,
        crystal.positions if positions is None else positions,
    )


def rotated(crystal, rng):
    turn = Rotation.random(random_state=rng).as_matrix()
    return same_atoms(crystal, crystal.lattice @ turn.T, crystal.positions @ turn.T)


def translated(crystal, rng):
    return same_atoms(crystal, positions=crystal.positions + rng.uniform(-5, 5, 3))


def wrapped(crystal, rng):
    shifts = rng.integers(-2, 3, crystal.positions.shape)
    return same_atoms(crystal, positions=crystal.positions + shifts @ crystal.lattice)


def permuted(crystal, rng):
    order = rng.permutation(crystal.num_atoms)
    return Crystal(crystal.lattice, crystal.atomic_numbers[order], crystal.positions[order])


def other_basis(crystal, rng):
    lattice = crystal.lattice.copy()
    lattice[1] += rng.choice([-1, 1]) * lattice[0]
    lattice[2] -= lattice[1]
    return same_atoms(crystal, lattice)


def supercell(crystal, copies):
    shifts = np.stack(np.meshgrid(*map(np.arange, copies), indexing="ij"), axis=-1).reshape(-1, 3)
    positions = crystal.positions[None] + (shifts @ crystal.lattice)[:, None]
    return Crystal(
        crystal.lattice * np.array(copies)[:, None],
        np.tile(crystal.atomic_numbers, len(shifts)),
        positions.reshape(-1, 3),
    )


@functools.partial(jax.jit, static_argnums=0)
def run(model, variables, graphs):
    return model.apply(variables, graphs)


@pytest.fixture(scope="module")
def encode():
    """Encodes crystals with a named encoder, with the same weights at every call."""
    variables = {}

    def bias(name):
        """The bias that is added after the pooling."""
        return variables[name]["params"]["out"]["bias"] if name == "cgcnn" else 0.0

    def function(name, crystals, shape=None):
        graphs = [build_graph(crystal, CUTOFF) for crystal in crystals]
        if shape is None and len(crystals) == len(SEEDS):
            # One shape, one compilation.
            shape = one_view_shape(3, ((16, 3),), EDGES)
        graphs = graph_batch(graphs, shape)
        if name not in variables:
            found = jax.jit(ENCODERS[name].init)(jax.random.key(0), graphs)
            rng = np.random.default_rng(7)
            variables[name] = {
                **found,
                "params": jax.tree.map(
                    lambda x: x + 0.05 * rng.normal(size=x.shape).astype(x.dtype), found["params"]
                ),
            }
        return np.asarray(run(ENCODERS[name], variables[name], graphs))[: len(crystals)]

    function.bias = bias
    return function


@pytest.mark.parametrize("name", NAMES)
def test_choices_without_meaning_change_nothing(encode, name):
    plain = encode(name, crystals())
    turns = () if name in SEES_DIRECTIONS else (rotated,)
    for change in (*turns, translated, wrapped, permuted):
        rng = np.random.default_rng(3)
        changed = encode(name, [change(crystal, rng) for crystal in crystals()])
        assert relative_error(changed, plain) < 2e-5, change.__name__
    # The test can fail: a different crystal has a different vector.
    stretched = [
        same_atoms(crystal, 1.05 * crystal.lattice, 1.05 * crystal.positions)
        for crystal in crystals()
    ]
    assert relative_error(encode(name, stretched), plain) > 1e-3


@pytest.mark.parametrize("name", STRUCTURAL)
def test_another_basis_of_the_lattice_changes_nothing(encode, name):
    rng = np.random.default_rng(3)
    plain = encode(name, crystals())
    changed = encode(name, [other_basis(crystal, rng) for crystal in crystals()])
    assert relative_error(changed, plain) < 2e-5


@pytest.mark.parametrize("name", ["painn", "cgcnn", pytest.param("orb", marks=pytest.mark.slow)])
def test_a_supercell_has_as_much_more_as_the_pool_says(encode, name):
    copies = [(2, 1, 1), (1, 3, 1), (1, 2, 2)]
    plain = encode(name, crystals())
    large = [supercell(crystal, n) for crystal, n in zip(crystals(), copies, strict=True)]
    many = encode(name, large)
    times = np.array([[np.prod(n)] for n in copies])
    if name != "orb":  # which averages
        bias = encode.bias(name)
        plain = (plain - bias) * times + bias
    assert relative_error(many, plain) < 2e-5


@pytest.mark.parametrize("name", NAMES)
def test_padding_and_neighbours_in_the_batch_change_nothing(encode, name):
    plain = encode(name, crystals())
    separate = np.concatenate([encode(name, [crystal]) for crystal in crystals()])
    assert relative_error(separate, plain) < 2e-5
    edges = sum(len(build_graph(crystal, CUTOFF).senders) for crystal in crystals())
    roomy = one_view_shape(7, ((8, 2), (16, 2)), edges + 50)
    assert relative_error(encode(name, crystals(), roomy), plain) < 2e-5


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name == "orb" else []) for name in ENCODERS],
)
def test_gradients_are_finite_also_without_edges_and_do_not_see_padding(name):
    model = ENCODERS[name]
    lonely = Crystal(20 * np.eye(3), np.array([29]), np.zeros((1, 3)))
    graphs = [build_graph(crystal, CUTOFF) for crystal in (*crystals()[1:], lonely)]
    tight = graph_batch(graphs, one_view_shape(3, ((16, 3),), EDGES))
    roomy = graph_batch(graphs, one_view_shape(7, ((8, 2), (16, 2)), EDGES + 50))
    variables = jax.jit(model.init)(jax.random.key(0), tight)

    @jax.jit
    @jax.grad
    def gradient(params, graphs):
        return jnp.sum(model.apply({**variables, "params": params}, graphs)[:3] ** 2)

    plain, padded = (gradient(variables["params"], batch) for batch in (tight, roomy))
    total = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(plain)))
    assert 0 < total < np.inf
    for leaf, other in zip(*map(jax.tree.leaves, (plain, padded)), strict=True):
        assert np.linalg.norm(other - leaf) < 1e-4 * total


def test_the_vectors_of_painn_turn_with_the_crystal():
    crystal = crystals()[2]
    turn = Rotation.random(random_state=4).as_matrix()
    turned = same_atoms(crystal, crystal.lattice @ turn.T, crystal.positions @ turn.T)
    model = ENCODERS["painn"]
    batches = [graph_batch([build_graph(c, CUTOFF)]) for c in (crystal, turned)]
    variables = jax.jit(model.init)(jax.random.key(0), batches[0])

    @jax.jit
    def vectors(graphs):
        _, state = model.apply(variables, graphs, capture_intermediates=True)
        calls = state["intermediates"]
        return calls["message_1"]["__call__"][0][1], calls["update_2"]["__call__"][0][1]

    for before, after in zip(*map(vectors, batches), strict=True):
        expected = jnp.einsum("ij,njf->nif", turn, before)
        assert relative_error(after, expected) < 2e-5
        assert relative_error(after, before) > 0.1
