"""Features of the magnitude of a number."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from clac_jax.models.fourier import NUM_FEATURES, OCTAVES, magnitude_features


def test_they_are_the_logarithm_and_its_waves():
    features = np.asarray(magnitude_features(jnp.array([[1.0, 8.0], [-8.0, 0.3]])))
    assert features.shape == (2, 2, NUM_FEATURES)
    np.testing.assert_allclose(features[0, 0], [0] + [0] * 8 + [1] * 8, atol=1e-6)
    phases = 2 * np.pi * 3 / np.array(OCTAVES)
    expected = [3 / 4, *np.sin(phases), *np.cos(phases)]
    np.testing.assert_allclose(features[0, 1], expected, atol=1e-4)
    np.testing.assert_array_equal(features[1, 0], features[0, 1])  # of the magnitude, not the sign


def test_small_differences_are_seen_at_every_magnitude():
    """A part in two hundred: what the third digit of a density is at least."""
    values = np.geomspace(0.01, 1000, 50)
    near, far = (magnitude_features(jnp.asarray(values * factor)) for factor in (1, 1.005))
    assert np.linalg.norm(near - far, axis=1).min() > 0.3
    # Nothing between these magnitudes has the features of something else.
    assert len(np.unique(np.asarray(near).round(2), axis=0)) == len(values)


def test_zero_and_the_largest_number_have_finite_features_and_gradients():
    values = jnp.array([0.0, 1e-30, 3e38, -3e38])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(magnitude_features(x))))(values)
    assert np.isfinite(magnitude_features(values)).all() and np.isfinite(gradient).all()
    np.testing.assert_array_equal(*magnitude_features(values[:2]))
