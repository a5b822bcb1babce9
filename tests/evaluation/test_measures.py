"""Measures of rankings: hand-computed cases, ties, and agreement with scikit-learn and SciPy."""

import math

import numpy as np
import pytest

from clac_jax.evaluation.measures import average_precision, fair_credit, pearson, roc_auc, spearman


def test_area_counts_the_pairs_in_the_right_order():
    # Positives 0.9 and 0.4 against negatives 0.5 and 0.1: three of four pairs are in order.
    assert roc_auc(np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.4, 0.1])) == 0.75


def test_average_precision_of_a_ranking():
    # Ranked + - + -: precision 1/1 at the first positive and 2/3 at the second.
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.5, 0.4, 0.1])
    assert average_precision(labels, scores) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize("labels", [[1, 0, 0, 0], [0, 0, 0, 1]])
def test_equal_scores_favour_no_order_of_the_data(labels):
    constant = np.zeros(4)
    assert roc_auc(np.array(labels), constant) == 0.5
    assert average_precision(np.array(labels), constant) == 0.25  # the share of positives


def test_a_missing_class_gives_nan():
    assert math.isnan(roc_auc(np.array([1, 1]), np.array([0.0, 1.0])))
    assert math.isnan(roc_auc(np.array([0, 0]), np.array([0.0, 1.0])))
    assert math.isnan(average_precision(np.array([0, 0]), np.array([0.0, 1.0])))
    assert average_precision(np.array([1, 1]), np.array([0.0, 1.0])) == 1.0


@pytest.mark.parametrize("distinct", [5, 1000])
def test_as_scikit_learn_and_scipy_compute_them(distinct):
    metrics = pytest.importorskip("sklearn.metrics")
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    labels = rng.random(300) < 0.2
    scores = rng.integers(distinct, size=300) / distinct + 0.3 * labels
    scores = np.round(scores, 1 if distinct == 5 else 12)
    assert roc_auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert average_precision(labels, scores) == pytest.approx(
        metrics.average_precision_score(labels, scores)
    )
    other = np.round(scores + rng.normal(size=300), 1)
    assert spearman(scores, other) == pytest.approx(stats.spearmanr(scores, other).statistic)
    assert pearson(scores, other) == pytest.approx(stats.pearsonr(scores, other).statistic)


def test_correlation_of_a_constant_is_undefined():
    assert math.isnan(pearson(np.ones(3), np.arange(3.0)))
    assert math.isnan(spearman(np.arange(3.0), np.ones(3)))
    assert math.isnan(pearson(np.ones(1), np.ones(1)))


@pytest.mark.parametrize(
    ("scores", "credit"),
    [
        ([3, 1, 2], 1),
        ([1, 3, 2], 0),
        ([3, 3, 2], 1 / 2),  # a tie with the right choice, which is stored first
        ([2, 3, 3], 0),
        ([1, 1, 1, 1], 1 / 4),
    ],
)
def test_ties_are_shared(scores, credit):
    assert fair_credit(np.array(scores)) == credit


def test_credit_does_not_depend_on_the_place_of_the_right_choice():
    scores = np.array([0.5, 0.5, 0.1])
    moved = np.array([0.1, 0.5, 0.5])
    assert fair_credit(scores, 0) == fair_credit(moved, 2) == fair_credit(moved, 1) == 0.5
