"""A run with descriptors, numbers and the loss of the structure: trained, used, replayed."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from helpers import user_tables
from helpers.replayed_runs import STEPS_PER_EPOCH, blank_pictures, tiny_config
from helpers.small_runs import arrays_at

import clac_jax
from clac_jax import datasets
from clac_jax.cli import main as cli
from clac_jax.index.build import embed
from clac_jax.input_pipeline.batch import BatchShape, collate
from clac_jax.input_pipeline.run_data import view_options
from clac_jax.input_pipeline.views import plain_views
from clac_jax.models.build import build_model
from clac_jax.models.encoders import encoder_needs
from clac_jax.replay.history import read_history
from clac_jax.replay.replayer import Replayer
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.tasks.metrics import pool_metrics
from clac_jax.text.sentences import Tokenizer
from clac_jax.training_run import train

NUM_TEST = 8


@pytest.fixture(scope="module")
def workdir(data_dir, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("structure") / "run"
    config = tiny_config(
        data_dir,
        structure_weight=0.5,
        graph_encoder__add_descriptors=True,
        text_encoder__numbers_at=(0, 1),
        text_encoder__add_compositions=True,
    )
    with pytest.MonkeyPatch.context() as patch:
        blank_pictures(patch)
        train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def model(workdir):
    return clac_jax.load(workdir)


@pytest.fixture(scope="module")
def records(data_dir, model):
    split = datasets.load(model.config.dataset.name, data_dir, "test")
    return [split[k] for k in range(NUM_TEST)]


@pytest.fixture(scope="module")
def vectors(model, records):
    """Vectors of the crystals and of the texts."""
    crystals = model.embed_crystals([record.crystal() for record in records])
    return crystals, model.embed_texts([record.text_of("narratives", None) for record in records])


def test_the_loss_is_recorded_and_its_head_is_trained(workdir):
    rows = read_rows(workdir / "metrics.jsonl")
    losses = [row["structure_loss"] for row in rows if row["split"] == "train"]
    assert len(losses) == STEPS_PER_EPOCH and np.isfinite(losses).all()
    after = arrays_at(workdir, STEPS_PER_EPOCH)
    for name in ("structure_head/cell", "text_encoder/numbers_0/hidden"):
        # The bias starts at zero.
        assert np.abs(after[f"params/{name}/bias"]).max() > 0


def test_vectors_are_those_of_the_evaluation(model, records, vectors):
    tokenizer = Tokenizer.from_folder("minilm")
    options = view_options(model.config, encoder_needs(model.config))
    examples = [plain_views(record, k, options, tokenizer) for k, record in enumerate(records)]
    assert all(example.graphs[0].descriptors is not None for example in examples)
    assert any(np.isfinite(example.tokens[0].numbers).any() for example in examples)
    assert any(example.tokens[0].composition.any() for example in examples)
    largest = max(len(example.graphs[0].atomic_numbers) for example in examples)
    shape = BatchShape(
        NUM_TEST + 1,
        1,
        1,
        ((largest, NUM_TEST),),
        sum(len(example.graphs[0].senders) for example in examples),
        ((64, NUM_TEST),),
        present=examples[0].present,
    )
    apply = jax.jit(build_model(model.config, tokenizer.vocab_size).apply)
    output = apply(model.variables, collate(examples, shape))
    np.testing.assert_allclose(vectors[0], output.graph_projections[0, :NUM_TEST], atol=1e-5)
    np.testing.assert_allclose(vectors[1], output.text_projections[0, :NUM_TEST], atol=1e-5)


def test_the_figures_are_those_of_the_test_at_the_end(workdir, model, data_dir):
    split = datasets.load(model.config.dataset.name, data_dir, "test")
    pool = [split[k] for k in range(model.config.dataset.max_examples)]
    texts = [record.text_of("narratives", None) for record in pool]
    measured = pool_metrics(model.similarity(texts, [record.crystal() for record in pool]))
    row = read_rows(workdir / "metrics.jsonl")[-1]
    assert row["split"] == "test"
    assert measured == {name: row[name] for name in measured}


def test_a_number_in_a_text_counts_by_its_value(model):
    one, same, other = model.embed_texts(["It is 2.08 Å.", "It is 2.08 Å.", "It is 2.09 Å."])
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 0


def test_a_published_model_gives_the_same_bits(workdir, model, records, vectors, tmp_path):
    assert cli.main(["publish", str(workdir), str(tmp_path / "published")]) == 0
    loaded = clac_jax.load(tmp_path / "published")
    crystals = [record.crystal() for record in records]
    texts = [record.text_of("narratives", None) for record in records]
    np.testing.assert_array_equal(loaded.embed_crystals(crystals), vectors[0])
    np.testing.assert_array_equal(loaded.embed_texts(texts), vectors[1])


@pytest.mark.slow
def test_a_step_is_replayed_to_its_digests(workdir, tmp_path):
    history = read_history(str(workdir))
    replayer = Replayer(history, tmp_path / "scratch", lambda line: None)
    replayer.go_to(2)
    done = replayer.do(replayer.take_batch())
    recorded = history.digests(2)
    assert recorded and {name: done.digests[name] for name in recorded} == recorded


@pytest.mark.slow
def test_it_is_evaluated_indexed_searched_and_mapped(workdir, model, tmp_path, capsys):
    assert cli.main(["evaluate", str(workdir), "--resamples=20"]) == 0
    (written,) = workdir.glob("eval/*/eval.json")
    assert "retrieval" in json.loads(written.read_text())["tasks"]
    rows = [user_tables.row(k) for k in range(6)]
    table = user_tables.write(tmp_path / "t.jsonl", rows)
    index = embed(model, [str(table)], tmp_path / "index")
    assert index.info["count"] == 6
    assert cli.main(["search", str(tmp_path / "index"), "a salt with bonds of 2.82 Å"]) == 0
    assert cli.main(["map", str(tmp_path / "index"), f"--out={tmp_path / 'map'}"]) == 0
    assert (tmp_path / "map" / "index.html").is_file()
