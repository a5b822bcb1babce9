"""Retrieval protocols against examples computed by hand."""

import dataclasses

import numpy as np
import pytest
from helpers.pools import pool_of, pool_of_scores, records_of

from clac_jax.evaluation import ranking
from clac_jax.evaluation.intervals import Resampling
from clac_jax.evaluation.ranking import (
    chance,
    chance_of_formula,
    first_crystals,
    formula_ranks,
    kinds_of_errors,
    polymorph_ranks,
    pool_ranks,
    reference_ranks,
    summarize,
)
from clac_jax.evaluation.retrieval_report import retrieval
from clac_jax.tasks.metrics import pool_metrics

# Row: text, column: crystal. Text 0 finds its crystal first, text 1 third, text 2 second, text 3
# ties with two others.
SCORES = [
    [9, 1, 2, 3],
    [4, 2, 3, 1],
    [5, 1, 3, 2],
    [1, 7, 7, 7],
]
# Crystals 0 and 2 are polymorphs, and so are 1 and 3.
FORMULAS = ["NaCl", "TiO2", "NaCl", "TiO2"]


@pytest.fixture
def pool():
    return pool_of_scores(SCORES, formulas=FORMULAS)


def test_ranks_in_both_directions(pool):
    ranks = pool_ranks(pool)
    np.testing.assert_array_equal(ranks["text_to_crystal"].ahead, [0, 2, 1, 0])
    np.testing.assert_array_equal(ranks["text_to_crystal"].tied, [0, 0, 0, 2])
    np.testing.assert_array_equal(ranks["text_to_crystal"].fair, [1, 3, 2, 2])
    # Columns: crystal 0 has 9 from its own text; crystal 1 has 2, behind 7; ...
    np.testing.assert_array_equal(ranks["crystal_to_text"].ahead, [0, 1, 1, 0])


def test_ties_give_the_share_of_the_orders_in_which_the_match_is_within_k(pool):
    ranks = pool_ranks(pool)["text_to_crystal"]
    np.testing.assert_allclose(ranks.credit(1), [1, 0, 0, 1 / 3])
    np.testing.assert_allclose(ranks.credit(2), [1, 0, 1, 2 / 3])
    np.testing.assert_allclose(ranks.credit(3), [1, 1, 1, 1])


def test_a_collapsed_model_is_at_chance():
    pool = pool_of(np.ones((20, 2)), np.ones((20, 2)))
    found = summarize(pool_ranks(pool)["text_to_crystal"], Resampling(20))
    luck = chance(20)
    for name in luck:
        assert found[name].value == pytest.approx(luck[name])
    assert luck == {
        "top1": 0.05,
        "top3": 0.15,
        "top5": 0.25,
        "top10": 0.5,
        "median_rank": 10.5,
        "mean_rank": 10.5,
    }


def test_chance_is_what_random_scores_achieve():
    rng = np.random.default_rng(0)
    found = [
        float(np.mean(pool_ranks(pool_of_scores(rng.random((30, 30))))["crystal_to_text"].fair))
        for _ in range(50)
    ]
    assert np.mean(found) == pytest.approx(chance(30)["mean_rank"], abs=1.0)


def test_the_figures_are_those_of_the_test_at_the_end_of_a_run():
    scores = np.random.default_rng(1).normal(size=(40, 40)).astype(np.float32)
    scores += 2 * np.eye(40, dtype=np.float32)
    pool = pool_of_scores(scores)
    row = pool_metrics(scores)
    for name in ("text_to_crystal", "crystal_to_text"):
        found = summarize(pool_ranks(pool)[name], Resampling(2))
        for k in (1, 3, 10):
            assert found[f"top{k}"].value == row[f"{name}_top{k}"]


def test_blocks_of_queries_change_nothing(monkeypatch):
    scores = np.random.default_rng(2).normal(size=(23, 23))
    pool = pool_of_scores(scores, formulas=[f"X{k // 2}" for k in range(23)])
    undivided = pool_ranks(pool), formula_ranks(pool, pool.texts)
    monkeypatch.setattr("clac_jax.evaluation.pool._BLOCK", 23 * 5)
    in_blocks = pool_ranks(pool), formula_ranks(pool, pool.texts)
    for name in ranking.VARIANTS:
        np.testing.assert_array_equal(undivided[0][name].fair, in_blocks[0][name].fair)
    np.testing.assert_array_equal(undivided[1].fair, in_blocks[1].fair)


def test_any_crystal_of_the_formula_counts(pool):
    ranks = formula_ranks(pool, pool.texts)
    # Text 1 (TiO2) prefers both NaCl; text 2 (NaCl) prefers crystal 0, a polymorph of its own;
    # text 3 ties crystals 1, 2 and 3, of which only 2 has a different formula.
    np.testing.assert_array_equal(ranks.ahead, [0, 2, 0, 0])
    np.testing.assert_array_equal(ranks.tied, [0, 0, 0, 1])
    np.testing.assert_allclose(ranks.credit(1), [1, 0, 1, 1 / 2])


def test_chance_of_a_formula():
    # One draw: 2 of 4 are right for every text. Two draws: 1 - (2/4)(1/3).
    assert chance_of_formula(FORMULAS, 1) == 0.5
    assert chance_of_formula(FORMULAS, 2) == pytest.approx(1 - 1 / 6)
    assert chance_of_formula(FORMULAS, 3) == chance_of_formula(FORMULAS, 10) == 1.0
    assert chance_of_formula(["A", "A", "A", "B"], 1) == pytest.approx((3 * 3 / 4 + 1 / 4) / 4)


def test_polymorphs_are_ranked_among_themselves(pool):
    found = polymorph_ranks(pool, pool.texts)
    np.testing.assert_array_equal(found.queries, [0, 2, 1, 3])
    np.testing.assert_array_equal(found.sizes, [2, 2, 2, 2])
    # 0: 9 > 2; 2: 3 < 5; 1: 2 > 1; 3: 7 = 7.
    np.testing.assert_allclose(found.ranks.credit(1), [1, 0, 1, 1 / 2])
    assert polymorph_ranks(pool_of_scores(SCORES), pool.texts) is None


def test_a_model_of_the_composition_is_at_chance_among_polymorphs():
    formulas = ["A", "A", "A", "B", "B"]
    vectors = np.eye(2)[[0, 0, 0, 1, 1]]  # the same for all crystals of a formula
    pool = pool_of(vectors, vectors, formulas)
    values = retrieval(pool).values["polymorphs"]
    assert values["chance"]["top1"] == pytest.approx((3 / 3 + 2 / 2) / 5)
    assert values["text_to_crystal"]["top1"]["value"] == pytest.approx(2 / 5)
    assert (values["queries"], values["formulas"]) == (5, 2)


def test_the_protocol_of_the_reference_keeps_the_last_pool(monkeypatch):
    monkeypatch.setattr(ranking, "REFERENCE_POOL", 3)
    scores = np.zeros((5, 5)) + 2 * np.eye(5)
    scores[0, 4] = 9  # in a different pool: does not matter
    scores[1, 0] = 9
    ranks, sizes = reference_ranks(pool_of_scores(scores))
    assert sizes == [3, 2]
    np.testing.assert_array_equal(ranks.fair, [1, 2, 1, 1, 1])
    values = retrieval(pool_of_scores(scores)).values["reference_protocol"]
    assert values["pool_sizes"] == [3, 2]
    assert values["text_to_crystal"]["top1"]["value"] == pytest.approx(4 / 5)
    # Queries in the pool of 3 have a chance of 1/3, the two others 1/2.
    assert values["chance"]["top1"] == pytest.approx((3 / 3 + 2 / 2) / 5)
    assert values["chance"]["top3"] == values["chance"]["top10"] == 1.0


def test_every_figure_has_its_pool_its_chance_and_two_intervals(pool):
    section = retrieval(pool)
    values = section.values
    assert values["pool_size"] == 4 and values["chance"]["top1"] == 0.25
    for key in ("by_example", "by_composition"):
        assert set(values[key]) == set(ranking.VARIANTS)
        for found in values[key].values():
            assert set(found) == {"top1", "top3", "top5", "top10", "median_rank", "mean_rank"}
            for estimate in found.values():
                assert estimate["low"] <= estimate["value"] <= estimate["high"]
                assert estimate["n"] == 4
    plain, grouped = (
        values[k]["text_to_crystal"]["top1"] for k in ("by_example", "by_composition")
    )
    assert plain["value"] == grouped["value"] == pytest.approx(1 / 3)
    captions = " ".join(table.caption for table in section.tables)
    for word in ("over examples", "over compositions", "Right formula", "Polymorphs", "reference"):
        assert word in captions


def test_one_row_per_example_with_its_ranks(pool):
    table = retrieval(pool).examples["ranks"]
    assert table.column("material_id").to_pylist() == ["id-0", "id-1", "id-2", "id-3"]
    assert table.column("formula").to_pylist() == FORMULAS
    assert table.column("rank_text_to_crystal").to_pylist() == [1, 3, 2, 2]
    assert table.column("tied_text_to_crystal").to_pylist() == [0, 0, 0, 2]
    assert set(table.column("pool_size").to_pylist()) == {4}


def test_wrong_first_crystals_are_sorted_by_their_relation_to_the_right_one():
    # Text 1 finds a polymorph, text 2 the same elements, text 4 nothing in common.
    formulas = ["NaCl", "NaCl", "TiO2", "Ti2O3", "Au"]
    numbers = [[11, 17], [11, 17], [22, 8, 8], [22, 8], [79]]
    records = [
        dataclasses.replace(record, atomic_numbers=np.array(atoms))
        for record, atoms in zip(records_of(formulas), numbers, strict=True)
    ]
    first = np.array([0, 0, 3, 3, 0])
    pool = pool_of_scores(np.eye(5)[first], formulas=formulas, records=records)
    np.testing.assert_array_equal(first_crystals(pool, pool.texts), first)
    assert kinds_of_errors(pool, first) == {
        "same_formula": 1,
        "same_elements": 1,
        "shared_element": 0,
        "no_shared_element": 1,
    }
    records[2] = dataclasses.replace(records[2], atomic_numbers=np.array([22, 16]))
    assert kinds_of_errors(pool, first)["shared_element"] == 1
    section = retrieval(pool)
    assert section.values["wrong_first_crystals"]["same_formula"] == 1
    assert section.examples["ranks"].column("first_crystal").to_pylist() == [
        f"id-{k}" for k in first
    ]


def test_texts_without_formulas_are_separate():
    pool = pool_of_scores(np.eye(4), texts_no_formula=1 - np.eye(4))
    values = retrieval(pool).values
    assert values["by_example"]["text_to_crystal"]["top1"]["value"] == 1.0
    assert values["by_example"]["text_to_crystal_no_formula"]["top1"]["value"] == 0.0
    assert values["right_formula"]["text_to_crystal_no_formula"]["top1"]["value"] == 0.0
