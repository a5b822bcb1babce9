"""Random displacement and strain of crystals."""

import numpy as np
import pytest
from helpers.crystals import random_crystal, rock_salt
from hypothesis import given, settings
from hypothesis import strategies as st

from clac_jax.crystals.augment import perturb, smallest_distance, strain
from clac_jax.crystals.crystal import Crystal

seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=150, deadline=None)
@given(seeds)
def test_bounded_view_keeps_half_of_the_smallest_distance(seed):
    rng = np.random.default_rng(seed)
    crystal = random_crystal(rng)
    view = perturb(crystal, rng)
    assert smallest_distance(view) >= 0.5 * smallest_distance(crystal) - 1e-9
    np.testing.assert_array_equal(view.lattice, crystal.lattice)
    if crystal.num_atoms > 1:
        assert not np.array_equal(view.positions, crystal.positions)


def test_legacy_law_is_uniform_on_each_axis():
    crystal, rng = rock_salt(), np.random.default_rng(0)
    shifts = np.concatenate(
        [perturb(crystal, rng, "legacy").positions - crystal.positions for _ in range(500)]
    )
    half = 0.5 * 5.64 / 2
    assert np.abs(shifts).max() <= half
    assert np.abs(shifts).max() > 0.99 * half
    np.testing.assert_allclose(shifts.std(axis=0), 2 * half / np.sqrt(12), rtol=0.03)


@pytest.mark.parametrize("law", ["bounded", "legacy"])
def test_a_single_atom_is_not_displaced(law):
    crystal = Crystal(3 * np.eye(3), [26], [[0.1, 0.2, 0.3]])
    assert perturb(crystal, np.random.default_rng(0), law) is crystal


def test_smallest_distance_with_and_without_own_images():
    crystal = Crystal(np.diag([2.0, 9.0, 9.0]), [1, 1], [[0, 0, 0], [0, 4.0, 0]])
    assert smallest_distance(crystal) == pytest.approx(2.0)
    assert smallest_distance(crystal, own_images=False) == pytest.approx(4.0)


@settings(max_examples=50, deadline=None)
@given(seeds)
def test_strain_stretches_each_axis_and_moves_the_atoms_along(seed):
    rng = np.random.default_rng(seed)
    crystal = random_crystal(rng)
    view = strain(crystal, rng, 0.05)
    factors = np.abs(view.lattice).sum(axis=0) / np.abs(crystal.lattice).sum(axis=0)
    assert np.all((factors >= 1.0) & (factors <= 1.05 + 1e-12))
    np.testing.assert_allclose(view.fractional, crystal.fractional, atol=1e-9)


def test_views_are_pure_functions_of_the_generator():
    crystal = rock_salt()
    for view in (perturb, strain):
        twice = [view(crystal, np.random.default_rng(5)).positions for _ in range(2)]
        np.testing.assert_array_equal(*twice)


@pytest.mark.parametrize("law", ["axial", "isotropic", "shear"])
def test_strain_laws(law):
    crystal = rock_salt()
    rng = np.random.default_rng(0)
    views = [strain(crystal, rng, 0.06, 0.03, law) for _ in range(300)]
    deformations = np.stack([np.linalg.solve(crystal.lattice, view.lattice) for view in views])
    for view, deformation in zip(views, deformations, strict=True):
        np.testing.assert_allclose(view.positions, crystal.positions @ deformation, atol=1e-12)
    diagonal = np.diagonal(deformations, axis1=1, axis2=2)
    others = deformations[:, [0, 1, 2], [1, 2, 0]]
    np.testing.assert_allclose(deformations, np.swapaxes(deformations, 1, 2), atol=1e-12)
    if law == "shear":
        np.testing.assert_allclose(diagonal, 1, atol=1e-12)
        assert 0.028 < np.abs(others).max() <= 0.03
        return
    np.testing.assert_allclose(others, 0, atol=1e-12)
    assert diagonal.min() < 0.98 and diagonal.max() > 1.05
    assert diagonal.min() >= 0.97 and diagonal.max() <= 1.06
    assert np.allclose(diagonal, diagonal[:, :1]) == (law == "isotropic")


def test_an_unknown_strain_law_is_refused():
    with pytest.raises(ValueError, match="Use axial, isotropic or shear"):
        strain(rock_salt(), np.random.default_rng(0), law="twist")
