"""Opening a split as a pool: its records, texts and vectors, and what is refused."""

import numpy as np
import pytest
from helpers.pools import StubModel

from clac_jax import datasets
from clac_jax.evaluation import pool as pool_lib
from clac_jax.evaluation.pool import (
    DataChoice,
    EvaluationError,
    Pool,
    PropertyPool,
    embed_distinct,
    open_pool,
)
from clac_jax.input_pipeline.splits import Splits
from clac_jax.input_pipeline.views import without_formulas
from configs import finetune_property, smoke

COUNT = 6


def config_of(get_config, data_dir):
    config = get_config()
    config.dataset.data_dir = str(data_dir)
    config.dataset.max_examples = COUNT
    return config


@pytest.fixture
def model(data_dir):
    return StubModel(config_of(smoke.get_config, data_dir))


@pytest.fixture(scope="module")
def records(data_dir):
    split = datasets.load("materials_project_mini", data_dir, "test")
    return [split[k] for k in range(COUNT)]


def test_a_pool_has_the_records_of_the_split_in_order_with_their_vectors(model, records):
    pool = open_pool(model)
    assert isinstance(pool, Pool) and len(pool) == COUNT and pool.split == "test"
    assert [r.material_id for r in pool.records] == [r.material_id for r in records]
    assert pool.formulas == [record.crystal().formula for record in records]
    texts = [record.text_of("narratives", None) for record in records]
    bare = [without_formulas(text, record) for text, record in zip(texts, records, strict=True)]
    assert bare != texts
    np.testing.assert_array_equal(pool.crystals, model.embed_texts(pool.formulas))
    np.testing.assert_array_equal(pool.texts, model.embed_texts(texts))
    np.testing.assert_array_equal(pool.texts_no_formula, model.embed_texts(bare))
    assert (pool.step, pool.data.is_own) == (model.step, None)


def test_a_property_pool_has_labels_and_predictions(data_dir):
    config = config_of(finetune_property.get_config, data_dir)
    pool = open_pool(StubModel(config))
    assert isinstance(pool, PropertyPool)
    name = config.property.name
    assert [record.properties[name] for record in pool.records] == pool.labels.tolist()
    assert pool.predicted.tolist() == [len(record.atomic_numbers) for record in pool.records]
    assert len(pool.train) == len(pool.train_labels) == COUNT


def test_another_split_and_another_limit(model):
    validation = open_pool(model, DataChoice(split="validation"))
    assert validation.split == "validation"
    other = DataChoice(split="validation", name="materials_project_mini")
    assert len(open_pool(model, other)) > COUNT  # the limit belongs to the run's own data


def test_data_that_have_changed_since_the_training_are_refused(model, capsys):
    fingerprint = open_pool(model).data.fingerprint
    assert open_pool(model, trained_on={"test": fingerprint}).data.is_own is True
    with pytest.raises(EvaluationError, match="has changed since stub was trained") as caught:
        open_pool(model, trained_on={"test": "0123456789abcdef"})
    assert "0123456789ab" in str(caught.value) and fingerprint[:12] in str(caught.value)
    assert capsys.readouterr().err == ""
    choice = DataChoice(name="materials_project_mini")
    assert open_pool(model, choice, trained_on={"test": "0123"}).data.is_own is False
    assert "not the data of the training" in capsys.readouterr().err


def test_a_split_that_is_unknown_or_empty_is_refused(model, monkeypatch):
    with pytest.raises(EvaluationError, match=r"no split 'tset'.*train, validation, test"):
        open_pool(model, DataChoice(split="tset"))
    monkeypatch.setattr(Splits, "__getitem__", lambda self, split: [])
    with pytest.raises(EvaluationError, match="The test split of the data set is empty"):
        open_pool(model)


def test_vectors_that_are_not_finite_are_refused(model):
    model.logit_scale = 1.0
    model.vector_of = lambda text: np.full(4, np.nan)
    with pytest.raises(EvaluationError, match="not finite"):
        open_pool(model)


def test_classes_predicted_from_logits_that_are_not_numbers_are_refused(data_dir):
    config = config_of(finetune_property.get_config, data_dir)
    model = StubModel(config)
    model.predict = lambda crystals: np.array([0, -1, 1, 1, 0, 0], np.int32)
    with pytest.raises(EvaluationError, match="not finite"):
        open_pool(model)


def test_equal_texts_are_embedded_once():
    model = StubModel(smoke.get_config())
    calls = []
    embed = model.embed_texts
    model.embed_texts = lambda texts: calls.append(list(texts)) or embed(texts)
    vectors = embed_distinct(model, ["b", "a", "b"])
    assert calls == [["b", "a"]]
    np.testing.assert_array_equal(vectors, embed(["b", "a", "b"]))


def test_blocks_cover_all_queries_in_both_directions(model, monkeypatch):
    pool = open_pool(model)
    monkeypatch.setattr(pool_lib, "_BLOCK", 4 * COUNT)
    scores = pool.scores(pool.texts)
    for is_text, expected in ((True, scores), (False, scores.T)):
        blocks = list(pool.score_blocks(pool.texts, is_text))
        assert [block for block, _ in blocks] == [slice(0, 4), slice(4, 8)]
        found = np.concatenate([block for _, block in blocks])
        np.testing.assert_allclose(found, expected, rtol=1e-6)
