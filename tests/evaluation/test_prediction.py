"""Measures of property models on examples computed by hand."""

import numpy as np
import pytest
from helpers.pools import property_pool_of, records_of

from clac_jax.evaluation.prediction import (
    accuracy,
    confusion,
    macro_f1,
    mae,
    prediction,
    r2,
    rmse,
)


def pairs(predicted, labels):
    return np.stack([np.asarray(predicted, float), np.asarray(labels, float)], axis=1)


def test_errors_of_numbers():
    found = pairs([1.0, 2.0, 5.0], [1.0, 4.0, 4.0])
    assert mae(found) == 1.0
    assert rmse(found) == pytest.approx(np.sqrt(5 / 3))
    assert r2(found) == pytest.approx(1 - 5 / 6)  # squares around the mean 3: 4 + 1 + 1
    assert r2(pairs([3.0] * 3, [1.0, 4.0, 4.0])) == 0.0
    assert np.isnan(r2(pairs([1.0, 2.0], [3.0, 3.0])))


def test_measures_of_classes():
    found = pairs([0, 0, 1, 2], [0, 1, 1, 1])
    assert accuracy(found) == 0.5
    # F1: class 0 2*1/(2+1), class 1 2*1/(1+3), class 2 (never right) 0.
    assert macro_f1(found) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    np.testing.assert_array_equal(
        confusion(found[:, 0], found[:, 1], 3), [[1, 0, 0], [1, 1, 1], [0, 0, 0]]
    )


def labelled(values, name="band gap"):
    """Training records whose composition decides the label: hydrogen has the first value, ..."""
    return records_of(["X"] * len(values), properties=[{name: value} for value in values])


def test_numbers_are_compared_with_the_mean_and_the_composition():
    train = labelled([1.0, 2.0, 3.0, 6.0])
    section = prediction(property_pool_of([1.1, 1.9, 3.5, 6.0], [1.0, 2.0, 3.0, 6.0], train))
    found = section.values["by_example"]
    assert found["model"]["mae"]["value"] == pytest.approx((0.1 + 0.1 + 0.5) / 4)
    assert found["mean"]["mae"]["value"] == pytest.approx((2 + 1 + 0 + 3) / 4)
    assert found["mean"]["r2"]["value"] == pytest.approx(0.0)
    assert 0.0 < found["composition"]["mae"]["value"] < found["mean"]["mae"]["value"]
    assert section.values["train_size"] == 4
    assert [row[0] for row in section.tables[0].rows] == [
        "model",
        "mean of the training",
        "composition only (ridge regression)",
    ]
    rows = section.examples["predictions"].to_pylist()
    assert rows[2]["material_id"] == "id-2"
    assert (rows[2]["label"], rows[2]["predicted"]) == (3.0, 3.5)
    assert "predicted_by_composition" in rows[2]


def test_classes_are_compared_with_the_commonest_and_the_composition():
    train = labelled([0.0, 1.0, 1.0, 0.0, 1.0], "kind")
    pool = property_pool_of([0, 1, 0, 1], [0, 1, 1, 1], train, "classification", "kind")
    section = prediction(pool)
    found = section.values["by_example"]
    assert found["model"]["accuracy"]["value"] == 0.75
    assert found["majority"]["accuracy"]["value"] == 0.75
    assert found["majority"]["macro_f1"]["value"] == pytest.approx((0 + 6 / 7) / 2)
    assert section.values["confusion"] == [[1, 0], [1, 2]]
    assert section.tables[-1].rows[1] == ("class 1", "1", "2", "66.7")
