"""The index of a model's own data: where it is kept, and when it is made again."""

import json
import os

import ml_collections
import pytest
from helpers.word_model import TABLE, WordModel, words_index

from clac_jax.config.schema import default_config, to_plain
from clac_jax.index import own
from clac_jax.index.filters import FilterError
from clac_jax.index.folders import SourceError
from clac_jax.index.layout import BuildError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(tmp_path):
    """A folder like that of a run, next to its table."""
    words_index(tmp_path)  # writes the table
    (tmp_path / "run" / "checkpoints" / "7").mkdir(parents=True)
    return tmp_path / "run"


def trained_on(table, name, seed=0):
    config = default_config()
    config.dataset.name, config.dataset.path = "gpt_narratives", str(table)
    model = WordModel(seed)
    model.name = str(name)
    model.config = ml_collections.FrozenConfigDict(to_plain(config))
    return model


@pytest.mark.parametrize("suffix", ["", "@best", "/checkpoints/7"])
def test_it_is_kept_in_the_run(run, cache, suffix, capsys):
    model = trained_on(run.parent / "table.jsonl", f"{run}{suffix}")
    index = own.own_index(model)
    assert index.path == run / "index" / "7-00000000" and index.count == len(TABLE)
    assert "Making the index" in capsys.readouterr().err
    (run.parent / "table.jsonl").unlink()  # not needed any more
    assert own.own_index(model).checksum == index.checksum
    assert capsys.readouterr().err == "" and not cache.exists()


def test_other_weights_have_an_index_of_their_own(run, cache):
    first, second = (trained_on(run.parent / "table.jsonl", run, seed) for seed in (0, 1 << 240))
    paths = [own.own_index(model).path for model in (first, second)]
    assert paths[0] != paths[1] and paths[1].name == "7-00010000"
    assert own.own_index(first).info["model"]["checksum"] == first.checksum


def test_of_a_model_that_is_not_a_run_it_is_in_the_users_cache(run, cache, tmp_path):
    index = own.own_index(trained_on(tmp_path / "table.jsonl", tmp_path / "published"))
    assert index.path == cache / "index" / "7-00000000"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_of_a_run_that_cannot_be_written_it_is_in_the_users_cache(run, cache):
    run.chmod(0o500)
    try:
        index = own.own_index(trained_on(run.parent / "table.jsonl", run))
    finally:
        run.chmod(0o700)
    assert index.path.parent == cache / "index"


def test_of_a_run_without_permission_the_cache_is_chosen(run, cache, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    index = own.own_index(trained_on(run.parent / "table.jsonl", run))
    assert index.path.parent == cache / "index"


def test_a_table_that_has_changed_is_reported(run, cache, capsys):
    table = run.parent / "table.jsonl"
    model = trained_on(table, run)
    own.own_index(model)
    capsys.readouterr()
    table.write_text(table.read_text().splitlines()[0] + "\n")
    assert own.own_index(model).count == len(TABLE)
    assert "table.jsonl has changed since its index was made" in capsys.readouterr().err


def test_a_wrong_condition_is_reported_before_an_index_is_made(run, cache, capsys):
    model = trained_on(run.parent / "table.jsonl", run)
    for where, words in (
        ("bandgap > 3", "Did you mean band_gap"),
        ("band_gap >", "is not a condition"),
        ("band_gap == 'wide'", "a number"),
    ):
        with pytest.raises(FilterError, match=words):
            own.own_index(model, where)
    assert not (run / "index").exists() and capsys.readouterr().err == ""
    index = own.own_index(model, "n_atoms > 1 and band_gap > 3")
    with pytest.raises(FilterError, match="Did you mean band_gap"):
        own.own_index(model, "bandgap > 3")
    assert own.own_index(model, "band_gap > 3").checksum == index.checksum


def test_a_condition_on_what_only_the_last_crystal_has_is_accepted(run, cache):
    table = run.parent / "table.jsonl"
    *rows, last = map(json.loads, table.read_text().splitlines())
    last["hardness"] = 7.0
    table.write_text("".join(json.dumps(row) + "\n" for row in (*rows, last)))
    assert own.own_index(trained_on(table, run), "hardness > 6").count == len(TABLE)


def test_data_that_are_gone_and_models_without_a_space(run, cache):
    with pytest.raises(SourceError, match="is not here, so no index"):
        own.own_index(trained_on(run.parent / "gone.jsonl", run))
    model = trained_on(run.parent / "table.jsonl", run)
    model.is_dot_product = False
    with pytest.raises(BuildError, match="not a product of their vectors"):
        own.own_index(model)
