"""Neighbour lists and graphs, compared with brute force."""

import itertools

import numpy as np
import pytest
from helpers.crystals import random_crystal, rock_salt

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.graph import build_graph, neighbour_list


def brute_force(crystal, cutoff):
    """Every (i, j, S) by brute force over all images that could be within the cutoff."""
    inverse = np.linalg.inv(crystal.lattice)
    # Along reciprocal direction k, one cell moves an atom by 1 / |column k of the inverse|.
    reach = cutoff * np.linalg.norm(inverse, axis=0)
    fractional = crystal.positions @ inverse
    spread = np.ptp(fractional, axis=0)
    limits = np.ceil(reach + spread).astype(int)
    shifts = np.array(list(itertools.product(*(range(-n, n + 1) for n in limits))))
    moved = shifts @ crystal.lattice
    pairs = set()
    for i in range(crystal.num_atoms):
        for j in range(crystal.num_atoms):
            vectors = crystal.positions[j] - crystal.positions[i] + moved
            near = np.linalg.norm(vectors, axis=1) <= cutoff
            for shift in shifts[near]:
                if i != j or shift.any():
                    pairs.add((i, j, *map(int, shift)))
    return pairs


@pytest.mark.parametrize(("seed", "cutoff"), [(7, 5.0), (8, 6.0)])
def test_edges_equal_brute_force_on_random_crystals(seed, cutoff):
    rng = np.random.default_rng(seed)
    one_atom = small_cell = 0
    for _ in range(100):
        crystal = random_crystal(rng)
        i, j, shifts, vectors = neighbour_list(crystal, cutoff)
        found = [
            (a, b, *s) for a, b, s in zip(i.tolist(), j.tolist(), shifts.tolist(), strict=True)
        ]
        assert len(found) == len(set(found))
        assert set(found) == brute_force(crystal, cutoff)
        expected = crystal.positions[j] + shifts @ crystal.lattice - crystal.positions[i]
        np.testing.assert_allclose(vectors, expected, atol=1e-9)
        one_atom += crystal.num_atoms == 1
        small_cell += np.linalg.norm(crystal.lattice, axis=1).min() < cutoff
    assert one_atom > 3
    assert small_cell > 20


def test_one_atom_in_a_small_cell():
    crystal = Crystal(2.5 * np.eye(3), [26], [[0.3, 0.2, 9.0]])
    graph = build_graph(crystal, 2.6)
    assert len(graph.senders) == 6
    np.testing.assert_allclose(np.linalg.norm(graph.edge_vectors, axis=1), 2.5, rtol=1e-6)


def test_a_crystal_without_edges_is_legal():
    graph = build_graph(Crystal(30 * np.eye(3), [2], [[0, 0, 0]]), 6.0)
    assert graph.senders.shape == (0,)
    assert graph.edge_vectors.shape == (0, 3)


def test_left_handed_cells_have_the_same_distances():
    crystal = random_crystal(np.random.default_rng(3))
    flipped = Crystal(crystal.lattice[[1, 0, 2]], crystal.atomic_numbers, crystal.positions)
    lengths = [
        np.sort(np.linalg.norm(build_graph(c, 6.0).edge_vectors, axis=1))
        for c in (crystal, flipped)
    ]
    np.testing.assert_allclose(*lengths, rtol=1e-6)


def test_edges_of_rock_salt():
    graph = build_graph(rock_salt(), 3.0)
    assert len(graph.senders) == 8 * 6
    assert np.all(graph.atomic_numbers[graph.senders] != graph.atomic_numbers[graph.receivers])


def test_edges_do_not_depend_on_where_the_cell_starts():
    crystal = random_crystal(np.random.default_rng(11))
    moved = crystal.positions + [0.3, -4.1, 7.7]
    shifted = Crystal(crystal.lattice, crystal.atomic_numbers, moved)
    for left, right in zip(neighbour_list(crystal, 5.0), neighbour_list(shifted, 5.0), strict=True):
        np.testing.assert_allclose(left, right, atol=1e-9)


def test_a_cell_far_from_reduced_has_the_edges_of_the_reduced_one():
    cube = Crystal(3.0 * np.eye(3), [26], [[0.0, 0.0, 0.0]])
    skew = np.array([[1, 0, 0], [9, 1, 0], [-14, 11, 1]])
    far = Crystal(skew @ cube.lattice, [26], [[0.0, 0.0, 0.0]])
    lengths = [
        np.sort(np.linalg.norm(build_graph(c, 6.5).edge_vectors, axis=1)) for c in (cube, far)
    ]
    np.testing.assert_allclose(*lengths, rtol=1e-6)


@pytest.mark.parametrize("k", [1, 6, 12])
def test_k_nearest_keeps_the_nearest_of_each_atom(k):
    rng = np.random.default_rng(k)
    for _ in range(20):
        crystal = random_crystal(rng)
        full, kept = build_graph(crystal, 6.0), build_graph(crystal, 6.0, max_neighbours=k)
        for atom in range(crystal.num_atoms):
            lengths = [
                np.sort(np.linalg.norm(g.edge_vectors[g.receivers == atom], axis=1))
                for g in (full, kept)
            ]
            np.testing.assert_allclose(lengths[1], lengths[0][:k], rtol=1e-5)
