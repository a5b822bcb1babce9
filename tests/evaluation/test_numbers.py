"""Sentences that differ in one number, with constructed vectors."""

import re

import numpy as np
import pytest
from helpers.pools import StubModel, pool_of, records_of

from clac_jax.evaluation.intervals import Resampling
from clac_jax.evaluation.numbers import (
    SIZES,
    Changed,
    changed_number,
    changes_of,
    compare,
    grid_of,
    measure,
    number_span,
    spread_of,
    stated,
)
from clac_jax.evaluation.quantities import Quantity
from configs import smoke

GAP = Quantity("band gap", "band gap", "eV", 2, r"\bgap")
HOW = Resampling(50, 1)


class Numerate(StubModel):
    """The vector of a text is on a circle, at the angle of its number: x / 10 rad."""

    def __init__(self):
        super().__init__(smoke.get_config(), 2)

    def vector_of(self, text):
        angle = float(re.findall(r"\d+\.\d+", text)[-1]) / 10
        return np.array([np.cos(angle), np.sin(angle)])


class Innumerate(StubModel):
    """All numbers are the same to it."""

    def __init__(self):
        super().__init__(smoke.get_config(), 2)

    def vector_of(self, text):
        return np.ones(2)


def pool_with(gaps, model=None):
    """Crystals at the angle of their gap, with a sentence that states it."""
    records = records_of(
        [f"X{k}" for k in range(len(gaps))], properties=[{"band gap": gap} for gap in gaps]
    )
    for record, gap in zip(records, gaps, strict=True):
        object.__setattr__(record, "gpt_text", f"It is dense. The band gap is {gap:.2f} eV.")
    angles = np.asarray(gaps) / 10
    crystals = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return pool_of(crystals, crystals, records=records, model=model or Numerate())


@pytest.fixture(scope="module")
def gaps():
    return np.round(np.random.default_rng(3).uniform(0.5, 8, 60), 2).tolist()


@pytest.mark.parametrize(
    ("sentence", "value", "number"),
    [
        ("The gap is 1.87 eV.", 1.8699, "1.87"),
        ("The gap is 2 eV.", 1.8699, "2"),
        ("The energy is -0.55 eV/atom.", -0.5513, "0.55"),
        ("Forming it releases 0.55 eV/atom.", -0.5513, "0.55"),
        ("It costs +0.41 eV/atom.", 0.41, "0.41"),
        ("The ratio is 0.25 and the anisotropy 2.65.", 2.6512, "2.65"),
        ("The gap is 1.88 eV.", 1.8699, None),
        ("The phase TiO2 has no gap of 3.5 eV.", 2.0, None),
        ("Its version is 1.87.2.", 1.87, None),
    ],
)
def test_the_number_of_a_value_is_found(sentence, value, number):
    span = number_span(sentence, value)
    assert (None if span is None else sentence[slice(*span)]) == number


def test_the_sentence_must_be_about_the_quantity():
    text = "The density is 1.87 g/cm^3. The band gap is 1.87 eV."
    assert stated(text, GAP, 1.87)[0] == "The band gap is 1.87 eV."
    assert stated("The density is 1.87 g/cm^3.", GAP, 1.87) is None
    assert stated("The band gap is 0.00 eV.", GAP, 0.001) is None


@pytest.mark.parametrize(
    ("number", "by", "changed"),
    [
        ("1.50", 0.5, "2.00"),
        ("1.50", -0.5, "1.00"),
        ("9.80", 0.5, "9.30"),  # beyond the limits, so the other way
        ("1.50", 0.001, None),  # less than the last decimal
        ("5.00", 20.0, None),
        ("117", 2.4, "119"),
    ],
)
def test_a_number_is_changed_within_the_limits(number, by, changed):
    assert changed_number(number, by, (0.0, 200.0 if number == "117" else 10.0)) == changed


def test_each_sentence_is_changed_by_all_sizes(gaps):
    texts = [f"The band gap is {gap:.2f} eV." for gap in gaps]
    changes = changes_of(GAP, texts, np.array(gaps), np.arange(3))
    assert {change.row for change in changes} == {0, 1, 2}
    unit = spread_of(np.array(gaps))
    for change in changes:
        old, new = (float(re.search(r"[\d.]+\d", t)[0]) for t in (change.own, change.changed))
        assert change.difference == pytest.approx(abs(new - old) / unit)
        assert change.difference == pytest.approx(change.size, abs=0.005 / unit + 1e-9)
        assert min(gaps) <= new <= max(gaps)
        assert change.own == change.changed.replace(f"{new:.2f}", f"{old:.2f}")
    sizes = [change.size for change in changes if change.row == 0]
    assert sizes == list(SIZES)


def test_sizes_are_in_standard_deviations_without_the_tails():
    values = np.concatenate([np.linspace(0, 1, 101), [1000.0]])
    assert spread_of(values) == pytest.approx(0.9 / np.sqrt(12), rel=0.03)
    assert spread_of(np.array([0.0] * 99 + [1.0])) > 0


def test_preferences_computed_manually():
    # Crystals at angles 0.1 and 0.3; the second is nearer to the changed number.
    pool = pool_with([1.0, 3.0])
    changes = [
        Changed(0, "gap 1.00", "gap 2.00", 1.0, 1.0),
        Changed(1, "gap 1.00", "gap 2.00", 1.0, 1.0),
        Changed(1, "gap 2.00", "gap 4.00", 2.0, 2.0),  # as far on both sides
    ]
    result = compare(pool, changes)
    np.testing.assert_allclose(result.similarity, np.cos([0.1, 0.1, 0.2]), atol=1e-6)
    np.testing.assert_allclose(result.prefers_own[:2], [1, 0])
    np.testing.assert_allclose(result.others_prefer, [0, 1, 1])  # there is one other crystal
    estimates = result.estimates(HOW)
    assert estimates["changes"] == 3 and estimates["sentences"] == 2
    assert estimates["by_size"][1.0]["accuracy"].value == 0.5
    assert estimates["by_size"][1.0]["accuracy"].n == 2
    assert estimates["by_size"][0.05]["accuracy"].n == 0


def test_a_model_that_understands_numbers(gaps):
    _, compared, grid = measure(pool_with(gaps))["band gap"]
    estimates = compared.estimates(HOW)
    assert estimates["spearman"].value < -0.95  # vectors are float32, so small changes tie
    assert estimates["accuracy"].value > 0.98
    assert 0.4 < estimates["other_crystals"].value < 0.6
    assert grid.spearman == pytest.approx(-1, abs=0.01)
    assert estimates["sentences"] == 40


def test_a_model_that_does_not_is_at_chance(gaps):
    _, compared, grid = measure(pool_with(gaps, Innumerate()))["band gap"]
    estimates = compared.estimates(HOW)
    assert estimates["accuracy"].value == estimates["other_crystals"].value == 0.5
    assert np.isnan(estimates["spearman"].value) and np.isnan(grid.spearman)


def test_a_model_without_cosines_has_preferences_only(gaps):
    pool = pool_with(gaps)
    pool.model.is_dot_product = False
    _, compared, grid = measure(pool)["band gap"]
    assert grid is None
    assert np.isnan(compared.estimates(HOW)["spearman"].value)
    assert compared.estimates(HOW)["accuracy"].value > 0.98


def test_quantities_that_few_texts_state_are_left_out(gaps):
    pool = pool_with(gaps)
    for record in pool.records[9:]:
        object.__setattr__(record, "gpt_text", "It is dense.")
    assert measure(pool) == {}


def test_queries_are_compared_over_the_range(gaps):
    grid = grid_of(pool_with(gaps), GAP, np.array(gaps))
    assert len(grid.values) == 12
    np.testing.assert_allclose(np.diag(grid.cosines), 1, atol=1e-6)
    first, second = grid.values[:2]
    assert grid.cosines[0, 1] == pytest.approx(np.cos((second - first) / 10), abs=1e-6)
