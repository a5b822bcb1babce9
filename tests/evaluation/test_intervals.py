"""Bootstrap intervals against known distributions and small examples."""

import numpy as np
import pytest

from clac_jax.evaluation.intervals import Estimate, Resampling, bootstrap, draws_of, paired


def coverage(draw, truth, trials=300, **options):
    """Share of intervals that contain the truth, over samples drawn with many seeds."""
    inside = 0
    for seed in range(trials):
        values, groups = draw(np.random.default_rng(seed))
        estimate = bootstrap(values, groups=groups, resamples=400, seed=seed, **options)
        inside += estimate.low <= truth <= estimate.high
    return inside / trials


def test_intervals_of_a_binomial_share_contain_it_as_often_as_promised():
    share = coverage(lambda rng: (rng.random(400) < 0.3, None), 0.3)
    assert 0.91 < share < 0.98  # 0.95 within three standard errors, and a little discreteness


def test_intervals_of_a_normal_mean_contain_it_and_have_its_width():
    assert 0.91 < coverage(lambda rng: (rng.normal(2.0, 3.0, 300), None), 2.0) < 0.98
    estimate = bootstrap(np.random.default_rng(0).normal(0.0, 1.0, 10_000), resamples=2000)
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 / 100, rel=0.08)


def clustered(rng, size=5, groups=60):
    """Values that are equal within a group: as independent as one value per group."""
    return np.repeat(rng.normal(size=groups), size), np.repeat(np.arange(groups), size)


def test_only_drawing_entire_groups_covers_the_mean_of_dependent_examples():
    assert coverage(clustered, 0.0) > 0.90
    assert coverage(lambda rng: (clustered(rng)[0], None), 0.0) < 0.75


def test_groups_of_one_are_the_plain_bootstrap():
    values = np.random.default_rng(1).normal(size=50)
    for labels in (
        np.arange(50),
        np.arange(50)[::-1],
        np.array([f"X{k % 7}{k}" for k in range(50)]),
    ):
        assert bootstrap(values, groups=labels) == bootstrap(values)


def test_the_fast_mean_is_the_mean_of_the_same_draws():
    values = np.random.default_rng(2).normal(size=30)
    for groups in (None, np.arange(30) // 4):
        how = Resampling(200, 3, groups)
        np.testing.assert_allclose(draws_of(values, None, how), draws_of(values, np.mean, how))


def test_a_draw_has_entire_groups():
    values, groups = np.arange(6.0), np.array(["b", "a", "b", "c", "a", "b"])
    seen = []

    def statistic(sample):
        seen.append(sorted(sample))
        return 0.0

    draws_of(values, statistic, Resampling(50, 0, groups))
    members = {"a": [1, 4], "b": [0, 2, 5], "c": [3]}
    for sample in seen:
        counts = {name: sample.count(rows[0]) for name, rows in members.items()}
        assert sum(counts.values()) == 3
        assert sample == sorted(row for name, k in counts.items() for row in members[name] * k)


def test_the_seed_decides_and_a_statistic_of_rows_is_taken():
    values = np.random.default_rng(3).normal(size=(40, 2))

    def statistic(rows):
        return float(np.corrcoef(rows.T)[0, 1])

    first = bootstrap(values, statistic, seed=1, resamples=100)
    assert first == bootstrap(values, statistic, seed=1, resamples=100)
    assert first != bootstrap(values, statistic, seed=2, resamples=100)
    assert first.low < first.value == statistic(values) < first.high


def test_pairs_cancel_what_both_models_find_hard():
    rng = np.random.default_rng(4)
    hard = rng.normal(size=300)
    a, b = hard + 0.1 + 0.05 * rng.normal(size=300), hard
    result = paired(a, b)
    assert result.estimate.low > 0 and result.p_positive == 1.0 and result.p_value == 0.0
    assert bootstrap(a).low < bootstrap(b).high  # while the single intervals overlap
    assert paired(b, a).p_positive == 0.0


def test_equal_models_differ_by_nothing():
    values = np.random.default_rng(5).normal(size=20)
    result = paired(values, values)
    assert result.estimate == Estimate(0.0, 0.0, 0.0, 20)
    assert result.p_positive == 0.5 and result.p_value == 1.0


def test_p_values_are_uniform_if_there_is_no_difference():
    values = []
    for seed in range(200):
        a, b = np.random.default_rng(seed).normal(size=(2, 80))
        values.append(paired(a, b, resampling=Resampling(200, seed)).p_value)
    assert 0.02 < np.mean(np.array(values) < 0.05) < 0.11
    assert 0.4 < np.mean(values) < 0.6


def test_impossible_requests_are_refused():
    with pytest.raises(ValueError, match="no examples"):
        bootstrap(np.zeros(0))
    with pytest.raises(ValueError, match="2 group labels for 3"):
        bootstrap(np.zeros(3), groups=np.zeros(2))
    with pytest.raises(ValueError, match="not pairs"):
        paired(np.zeros(3), np.zeros(2))


def test_json_has_null_for_what_is_not_finite():
    assert Estimate(float("nan"), 0.0, 1.0, 3).to_json() == {
        "value": None,
        "low": 0.0,
        "high": 1.0,
        "n": 3,
    }
