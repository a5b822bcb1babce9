"""Inverse design: retrieval by target values, thresholds and pairs, with constructed vectors."""

import re

import numpy as np
import pytest
from helpers.pools import StubModel, pool_of, records_of

from clac_jax.evaluation import inverse_design
from clac_jax.evaluation.estimates import plain
from clac_jax.evaluation.intervals import Resampling
from clac_jax.evaluation.inverse_design import (
    best_possible,
    candidates_of,
    found,
    measure,
    pair_queries,
    pairs_of,
    random_error,
    targets_of,
    threshold_queries,
    top_k,
)
from clac_jax.evaluation.quantities import Quantity, quantities_of
from configs import smoke

GAP = Quantity("band gap", "band gap", "eV", 2, "gap")
DENSITY = Quantity("density", "density", "g/cm^3", 2, "density")
HOW = Resampling(50, 1)


class Numerate(StubModel):
    """Understands numbers: the vector of a text is on a parabola at the number of each noun.

    The dot product of (2 x, -1) with (y, y^2), that is 2 x y - y^2, is largest at y = x.
    """

    def __init__(self):
        super().__init__(smoke.get_config(), 4)

    def vector_of(self, text):
        parts = []
        for noun in ("band gap", "density"):
            match = re.search(rf"{noun}[^\d-]*(-?[\d.]+\d)", text)
            x = float(match[1]) if match else None
            parts += [0, 0] if x is None else [2 * x, -1]
        if "greater" in text or "more than" in text or "above" in text:
            return np.array([1, 0, 1, 0])
        if "less" in text or "below" in text:
            return np.array([-1, 0, -1, 0])
        return np.array(parts)


def pool_with(gaps, densities=None, model=None):
    """Crystals whose vectors hold their values as `Numerate` compares them."""
    densities = np.linspace(1, 9, len(gaps)) if densities is None else densities
    rows = [
        {"band gap": gap, "density": density} for gap, density in zip(gaps, densities, strict=True)
    ]
    crystals = np.stack([gaps, np.square(gaps), densities, np.square(densities)], axis=1)
    records = records_of([f"X{k}" for k in range(len(gaps))], properties=rows)
    return pool_of(crystals, np.zeros((len(gaps), 4)), records=records, model=model or Numerate())


@pytest.fixture(scope="module")
def gaps():
    return np.round(np.random.default_rng(1).uniform(0, 8, 80), 2)


def test_the_highest_come_first_and_ties_do_not_follow_the_data():
    scores = np.array([[0.1, 0.9, 0.5, 0.4], [3.0, 0.0, 1.0, 2.0]])
    np.testing.assert_array_equal(top_k(scores, 3), [[1, 2, 3], [0, 3, 2]])
    assert top_k(scores, 9).shape == (2, 4)
    tied = top_k(np.zeros((1, 200)), 10)[0]
    assert len(set(tied)) == 10 and tied.max() > 20


def test_targets_are_evenly_spaced_and_rounded_as_texts_state_them():
    targets = targets_of(GAP, np.linspace(0, 10, 1001))
    np.testing.assert_allclose(
        targets, [0.5, 1.62, 2.75, 3.88, 5, 6.12, 7.25, 8.38, 9.5], atol=0.011
    )
    few = targets_of(GAP, np.array([0.0] * 95 + [0.02] * 5))
    np.testing.assert_allclose(few, np.unique(few))


def test_errors_and_correlations_computed_manually():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    result = found(values, np.array([1.0, 2.0, 4.0]), np.array([[0, 1], [1, 0], [3, 3]]))
    np.testing.assert_allclose(result.mean, [1.5, 1.5, 4.0])
    np.testing.assert_allclose(result.spread, [0.5, 0.5, 0.0])
    estimates = result.estimates(HOW)
    assert estimates["mae"].value == pytest.approx((0 + 1 + 0 + 1 + 0 + 0) / 6)
    assert estimates["pearson"].value == pytest.approx(np.corrcoef([1, 2, 4], [1.5, 1.5, 4])[0, 1])
    assert estimates["spearman"].value == pytest.approx(np.corrcoef([0, 1, 2], [0.5, 0.5, 2])[0, 1])


def test_limits_computed_manually(monkeypatch):
    monkeypatch.setattr(inverse_design, "K", 2)
    values, targets = np.array([0.0, 1.0, 2.0, 5.0]), np.array([0.0, 5.0])
    best = best_possible(values, targets)
    np.testing.assert_allclose(np.sort(best.values), [[0, 1], [2, 5]])
    assert random_error(values, targets) == pytest.approx((0 + 1 + 2 + 5 + 5 + 4 + 3 + 0) / 8)


def test_a_model_that_understands_numbers_finds_the_best_possible(gaps):
    result = measure(pool_with(gaps))["targets"]["band gap"]
    assert result["crystals"]["mae"].value == pytest.approx(result["best possible"]["mae"].value)
    assert result["crystals"]["pearson"].value > 0.99
    assert result["crystals"]["mae"].value < 0.3 * result["random"]["mae"]
    assert result["random"]["mean"] == pytest.approx(gaps.mean())


def test_a_model_that_ignores_numbers_is_near_random(gaps):
    class Innumerate(StubModel):
        def vector_of(self, text):
            return np.array([0.0, 0.0, 0.0, 0.0])

    result = measure(pool_with(gaps, model=Innumerate(smoke.get_config())))["targets"]["band gap"]
    assert np.isnan(result["crystals"]["pearson"].value)
    assert result["crystals"]["mae"].value > 0.7 * result["random"]["mae"]
    assert plain(result["crystals"]["pearson"])["value"] is None


def test_text_only_searches_the_texts(gaps):
    pool = pool_with(gaps)
    object.__setattr__(pool, "texts", pool.crystals)
    object.__setattr__(pool, "crystals", np.zeros_like(pool.crystals))
    result = measure(pool)["targets"]["band gap"]
    assert result["text only"]["pearson"].value > 0.99
    assert result["crystals"]["mae"].value > result["text only"]["mae"].value
    pool.model.is_dot_product = False
    assert "text only" not in measure(pool)["targets"]["band gap"]


def test_only_crystals_with_a_known_value_can_be_found(gaps):
    pool = pool_with(gaps)
    for record in pool.records[::4]:
        del record.properties["band gap"]
    assert measure(pool)["targets"]["band gap"]["crystals_known"] == 60


def test_thresholds_count_the_crystals_that_satisfy_them():
    values = np.arange(80.0)
    pool = pool_with(values)
    candidates = candidates_of(pool, np.ones(80, bool))
    result = threshold_queries(GAP, values, candidates)
    assert [(q["kind"], q["threshold"]) for q in result["queries"][:2]] == [
        ("greater than", 39.5), ("greater than", 59.25),
    ]  # fmt: skip
    assert [q["base_rate"] for q in result["queries"][:2]] == [0.5, 0.25]
    # Of the first 10, only 8 can satisfy the last threshold of each kind.
    assert [q["best possible"] for q in result["queries"]] == [1.0, 1.0, 0.8] * 2
    assert result["crystals"]["precision"].value == pytest.approx(result["best possible"])
    assert result["queries"][0]["precision, crystals"] == 1.0
    assert result["base_rate"] == pytest.approx(np.mean([0.5, 0.25, 0.1] * 2))


def test_thresholds_that_nothing_satisfies_are_left_out():
    values = np.array([0.0] * 60 + [1.0] * 20)
    result = threshold_queries(GAP, values, candidates_of(pool_with(values), np.ones(80, bool)))
    assert [(q["kind"], q["threshold"], q["base_rate"]) for q in result["queries"]] == [
        ("greater than", 0.0, 0.25), ("greater than", 0.25, 0.25),
    ]  # fmt: skip


def test_both_values_are_found_together(gaps):
    densities = np.random.default_rng(2).uniform(1, 9, 80)
    pool = pool_with(gaps, densities)
    result = pair_queries(
        (GAP, DENSITY), np.stack([gaps, densities]), candidates_of(pool, np.ones(80, bool))
    )
    assert result["targets"].shape == (9, 2)
    both, single = result["both"]["error"].value, result["first only"]["error"].value
    assert both < 0.6 * single
    assert result["best possible"]["error"].value <= both < 0.6 * result["random"]["error"]
    assert result["sum"]["error"].value == pytest.approx(both)  # Numerate adds the two
    # A query for one value meets that one better, and the other one worse.
    assert result["first only"]["mae"][0] < result["both"]["mae"][0]
    assert result["first only"]["mae"][1] > 1.5 * result["both"]["mae"][1]


def test_the_listed_pairs_or_else_all():
    both = quantities_of(pool_with(np.arange(60.0)).records)
    assert [(a.name, b.name) for a, b in pairs_of(list(both))] == [("band gap", "density")]
    others = [Quantity(name, name, "", 1, name) for name in "abcde"]
    assert len(pairs_of(others)) == 6
    assert pairs_of(others[:1]) == []
