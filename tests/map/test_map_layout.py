"""Positions on the map: principal components with a fixed sign, UMAP with a seed."""

import builtins
import sys
import types

import numpy as np
import pytest

from clac_jax.crystals.objects import MissingPackageError
from clac_jax.map.layout import MapError, lay_out


def vectors(count, dim=16, seed=0, shift=0.0):
    generator = np.random.default_rng(seed)
    spread = np.linspace(3, 0.3, dim)
    return (generator.normal(size=(count, dim)) * spread + shift).astype(np.float32)


def test_principal_components_are_those_of_a_singular_value_decomposition():
    crystals = vectors(300)
    layout = lay_out([crystals], [], "pca", 0)
    centred = crystals.astype(float) - crystals.mean(axis=0, dtype=float)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:2].T
    for axis in range(2):
        assert abs(np.corrcoef(layout.crystals[:, axis], expected[:, axis])[0, 1]) > 1 - 1e-6
        share = singular[axis] ** 2 / (singular**2).sum()
        assert layout.explained[axis] == pytest.approx(share)
    assert np.abs(layout.crystals).max() < 1.3
    # One scale for both axes: distances on the map are those in the plane.
    ratio = layout.crystals.std(axis=0) / expected.std(axis=0)
    assert ratio[0] == pytest.approx(ratio[1])


def test_an_axis_has_one_sign_only():
    # Reordering the rows changes the rounding of the decomposition, not the map.
    crystals = vectors(200)
    first = lay_out([crystals], [], "pca", 0).crystals
    second = lay_out([crystals[::-1]], [], "pca", 0).crystals[::-1]
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_blocks_are_one_set_of_vectors():
    crystals, texts = vectors(100), vectors(60, seed=1)
    together = lay_out([crystals], [texts], "pca", 0)
    parts = lay_out([crystals[:30], crystals[30:]], [texts[:50], texts[50:]], "pca", 0)
    np.testing.assert_allclose(together.crystals, parts.crystals, atol=1e-6)
    np.testing.assert_allclose(together.texts, parts.texts, atol=1e-6)


def test_the_gap_between_crystals_and_texts_is_taken_out():
    crystals = vectors(200)
    apart = lay_out([crystals], [crystals + 5.0], "pca", 0)
    np.testing.assert_allclose(apart.crystals, apart.texts, atol=1e-4)


@pytest.mark.slow  # compiles UMAP
def test_same_seed_same_bytes_in_umap():
    crystals, texts = vectors(60), vectors(40, seed=1)
    first = lay_out([crystals], [texts], "umap", 3)
    again = lay_out([crystals], [texts], "umap", 3)
    other = lay_out([crystals], [texts], "umap", 4)
    assert first.crystals.tobytes() == again.crystals.tobytes()
    assert first.texts.tobytes() == again.texts.tobytes()
    assert first.crystals.tobytes() != other.crystals.tobytes()
    assert first.crystals.shape == (60, 2) and first.texts.shape == (40, 2)


def test_umap_starts_from_the_principal_components_with_the_seed(monkeypatch):
    seen = {}

    class Reducer:
        def __init__(self, **options):
            seen.update(options)

        def fit_transform(self, rows):
            seen["rows"] = rows
            return rows[:, :2]

    monkeypatch.setitem(sys.modules, "umap", types.SimpleNamespace(UMAP=Reducer))
    crystals = vectors(60)
    layout = lay_out([crystals], [crystals[:40] + 5.0], "umap", 3)
    assert seen["random_state"] == 3 and seen["n_jobs"] == 1
    np.testing.assert_allclose(np.linalg.norm(seen["rows"], axis=1), 1, atol=1e-5)
    pca = lay_out([crystals], [crystals[:40] + 5.0], "pca", 3)
    start = np.concatenate([pca.crystals, pca.texts])
    for axis in range(2):
        assert np.corrcoef(seen["init"][:, axis], start[:, axis])[0, 1] > 1 - 1e-6
    assert layout.texts.shape == (40, 2) and layout.explained is None


def test_without_umap_the_message_names_the_extra(monkeypatch):
    original = builtins.__import__

    def missing(name, *arguments, **options):
        if name == "umap":
            raise ImportError(name)
        return original(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingPackageError, match=r'pip install "clac-jax\[umap\]"'):
        lay_out([vectors(10)], [], "umap", 0)


def test_too_few_crystals_and_unknown_layouts_are_refused():
    with pytest.raises(MapError, match="at least three crystals"):
        lay_out([vectors(2)], [], "pca", 0)
    with pytest.raises(MapError, match=r"'tsne' is not a layout. Use one of pca, umap"):
        lay_out([vectors(5)], [], "tsne", 0)
