"""Zero-shot classes: scores from sentences, and what is reported of them."""

import numpy as np
import pytest
from helpers.pools import StubModel, pool_of, property_pool_of, records_of

from clac_jax.evaluation import class_list
from clac_jax.evaluation.class_list import ZeroShotClass
from clac_jax.evaluation.classes import (
    accuracy_in_group,
    class_scores,
    classify,
    measure_class,
    with_own_classes,
)
from clac_jax.evaluation.own_classes import OwnClasses
from clac_jax.evaluation.pool import EvaluationError
from configs import smoke


def test_positive_minus_negative_each_averaged_over_its_wordings():
    zero_shot = ZeroShotClass("g", "n", np.array([1.0, 0.0]), ("a", "b"), ("c", "d"))
    scores = np.array([[1.0, 0.0], [3.0, 1.0], [0.5, 0.5], [1.5, 2.5]])
    row_of = {"a": 0, "b": 1, "c": 2, "d": 3}
    score, wordings = class_scores(zero_shot, row_of, scores)
    np.testing.assert_allclose(score, [2 - 1, 0.5 - 1.5])
    np.testing.assert_allclose(wordings, [[0, -1.5], [2, -0.5]])


def test_a_class_without_negative_sentences_is_scored_by_its_own():
    zero_shot = ZeroShotClass("g", "n", np.zeros(2), ("a",), ())
    np.testing.assert_allclose(class_scores(zero_shot, {"a": 0}, np.array([[1.0, 2.0]]))[0], [1, 2])


def test_figures_of_a_class_computed_manually():
    # Four crystals are known; the fifth, with the highest score, is not.
    zero_shot = ZeroShotClass("g", "n", np.array([1, 0, 1, 0, np.nan]), ("yes",), ("no",))
    pool = pool_of(np.eye(5), np.eye(5))
    scores = np.array([[0.9, 0.5, 0.4, 0.1, 9.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    found = measure_class(pool, zero_shot, {"yes": 0, "no": 1}, scores)
    assert (found["crystals"], found["members"], found["base_rate"]) == (4, 2, 0.5)
    assert found["roc_auc"].value == 0.75
    assert found["average_precision"].value == pytest.approx((1 + 2 / 3) / 2)
    assert found["roc_auc_of_wordings"] == [0.75]
    assert found["roc_auc"].low <= 0.75 <= found["roc_auc"].high


def test_the_right_one_of_a_group():
    # Crystals of the classes a, a, b; the second scores higher for b, the third ties.
    group = [
        ZeroShotClass("g", "a", np.array([1.0, 1.0, 0.0]), ("is a",), ("is b",)),
        ZeroShotClass("g", "b", np.array([0.0, 0.0, 1.0]), ("is b",), ("is a",)),
    ]
    scores = np.array([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5]])
    found = accuracy_in_group(pool_of(np.eye(3), np.eye(3)), group, {"is a": 0, "is b": 1}, scores)
    assert found["accuracy"].value == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert found["most_frequent"] == {"class": "a", "accuracy": pytest.approx(2 / 3)}
    assert found["chance"] == 0.5


def pool_with_gaps(gaps, crystals, vectors):
    records = records_of(
        [f"X{k}" for k in range(len(gaps))], properties=[{"band gap": gap} for gap in gaps]
    )
    model = StubModel(smoke.get_config(), np.shape(crystals)[1], vectors)
    return pool_of(crystals, crystals, records=records, model=model)


def test_a_model_that_knows_metals_gets_full_marks(monkeypatch):
    monkeypatch.setattr(class_list, "_common_elements", lambda records: {})
    metal, insulator = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    gaps = [0.0] * 6 + [2.0] * 6
    crystals = np.array([metal] * 6 + [insulator] * 6)
    (electronic, *_) = class_list.classes_of(pool_with_gaps(gaps, crystals, {}).records, [""] * 12)
    vectors = dict.fromkeys(electronic.positive, metal)
    vectors |= dict.fromkeys(electronic.negative, insulator)
    section = classify(pool_with_gaps(gaps, crystals, vectors))
    found = section.values["classes"]["electronic: metal"]
    assert found["roc_auc"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 12}
    assert found["average_precision"]["value"] == 1.0
    assert found["base_rate"] == 0.5
    assert found["roc_auc_of_own_texts"] == 1.0
    assert "structure type: spinel" in section.values["not_measured"]
    # All crystals are simple cubic, so no system has crystals outside it.
    assert section.values["crystal_system"] is None


def test_a_model_that_sees_no_difference_is_at_chance():
    gaps = [0.0] * 4 + [2.0] * 8
    assert classify(pool_with_gaps(gaps, np.ones((12, 2)), {})).values["classes"] == {}  # too few
    found = classify(pool_with_gaps([0.0] * 5 + [2.0] * 7, np.ones((12, 2)), {})).values["classes"]
    assert found["electronic: metal"]["roc_auc"]["value"] == 0.5
    assert found["electronic: metal"]["average_precision"]["value"] == pytest.approx(5 / 12)


def test_nothing_to_measure_is_reported_in_one_line():
    section = classify(pool_of(np.eye(3), np.eye(3)))
    assert section.tables == []
    assert "No class has 5 of the 3 crystals" in section.intro


def test_own_classes_are_measured_too():
    names = [f"id-{k}" for k in range(10)]
    own = OwnClasses("mine.csv", {n: "ab"[k % 2] for k, n in enumerate(names)},
                     {"a": ("is a",), "b": ("is b",)})  # fmt: skip
    crystals = np.array([[1.0, 0.0], [0.0, 1.0]] * 5)
    pool = pool_of(crystals, crystals, model=StubModel(smoke.get_config(), 2, {
        "is a": [1, 0], "is b": [0, 1],
    }))  # fmt: skip
    found = classify(with_own_classes(pool, own)).values["classes"]
    assert found["own: a"]["roc_auc"]["value"] == 1.0
    assert found["own: b"]["members"] == 5


def test_a_property_model_has_no_use_for_own_classes():
    pool = property_pool_of([1.0], [1.0], ())
    with pytest.raises(EvaluationError, match="Leave out --classes"):
        with_own_classes(pool, OwnClasses("mine.csv", {"id-0": "a"}, {"a": ("is a",)}))
