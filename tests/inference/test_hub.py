"""Models on the Hugging Face Hub, from a cache as its library lays it out; no network is used."""

import shutil

import numpy as np
import pytest
from huggingface_hub import constants

import clac_jax
from clac_jax.api import LoadError
from clac_jax.inference.publish import publish

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """An empty cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def cached(cache, tested):
    """A published model in the cache; returns the folder of its snapshot."""
    repo = cache / "models--owner--name"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(COMMIT)
    (repo / "snapshots").mkdir()
    return publish(tested, repo / "snapshots" / COMMIT)


def test_a_model_in_the_cache_is_loaded(cached, model, crystals):
    for name in ("hf:owner/name", "hf:owner/name@main", f"hf:owner/name@{COMMIT}"):
        loaded = clac_jax.load(name)
        assert (loaded.name, loaded.checksum) == (name, model.checksum)
    np.testing.assert_array_equal(loaded.embed_crystals(crystals), model.embed_crystals(crystals))


def test_a_model_that_is_nowhere(cached):
    for name in ("hf:owner/other", "hf:owner/name@v2"):
        with pytest.raises(
            LoadError, match=rf"^{name} is not in the local .*OFFLINE is set.*hf down"
        ):
            clac_jax.load(name)


def test_a_model_of_which_a_part_is_in_the_cache(cached):
    shutil.rmtree(cached / "text_encoder")
    with pytest.raises(LoadError, match="hf:owner/name"):
        clac_jax.load("hf:owner/name")


def test_the_damage_of_a_cached_file_is_found(cached):
    (cached / "eval.json").write_text("{}")
    with pytest.raises(clac_jax.api.PublishedError, match=r"eval\.json is not the file"):
        clac_jax.load("hf:owner/name")


@pytest.mark.parametrize(
    "name",
    ["hf:", "hf:owner", "hf:a/b/c", "hf:../..", "hf:-a/b", "hf:a/b.git", "hf:a/b@", "hf: a/b"],
)
def test_what_is_not_the_name_of_a_model(cache, name):
    with pytest.raises(LoadError, match="is not the name of a model on the Hugging Face Hub"):
        clac_jax.load(name)
