"""Comparison of two evaluations, example by example."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers.pools import StubModel, pool_of_scores, records_of

from clac_jax.evaluation import report
from clac_jax.evaluation.compare_report import html_of, sections_of, to_json
from clac_jax.evaluation.comparison import (
    check_pools,
    compare,
    config_differences,
    figures_of,
    measures_of,
)
from clac_jax.evaluation.intervals import Resampling
from clac_jax.evaluation.results import ResultsError, open_results
from clac_jax.evaluation.retrieval_report import retrieval
from configs import smoke

COUNT = 12
FEW = Resampling(resamples=200)


def evaluated(folder, quality, order=None, **changes):
    """Writes the evaluation of a model whose own pairs score `quality` higher than others.

    Args:
        folder: where to.
        quality: score of each own pair above noise.
        order: order of the examples.
        changes: new values of keys of the config.
    """
    scores = np.random.default_rng(0).normal(size=(COUNT, COUNT)) + np.diag(quality)
    order = np.arange(COUNT) if order is None else np.asarray(order)
    config = smoke.get_config()
    config.update(changes)
    records = records_of([f"X{k // 2}" for k in range(COUNT)])
    pool = pool_of_scores(
        scores[np.ix_(order, order)],
        formulas=[records[k].formula for k in order],
        records=[records[k] for k in order],
        model=StubModel(config, len(order)),
    )
    report.write(folder, pool, [retrieval(pool)])
    return open_results(str(folder), "test")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("good"), np.full(COUNT, 9.0), seed=1)


@pytest.fixture(scope="module")
def poor(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("poor"), np.tile([0.0, 9.0], COUNT // 2), seed=2)


def by_measure(found):
    return {c.measure: c for c in found}


def test_the_better_model_is_better_by_the_difference_of_the_means(good, poor):
    found = by_measure(compare(poor, good, 1, FEW))["text_to_crystal top1"]
    ranks = poor.examples()["ranks"].column("rank_text_to_crystal").to_numpy()
    assert found.values == (pytest.approx(np.mean(ranks == 1)), 1.0)
    assert found.difference.estimate.value == pytest.approx(1 - np.mean(ranks == 1))
    assert found.difference.estimate.low > 0 and found.p_better == 1.0
    back = by_measure(compare(good, poor, 1, FEW))["text_to_crystal top1"]
    assert back.difference.estimate.value == -found.difference.estimate.value
    assert back.p_better == 0.0


def test_lower_is_better_for_ranks(good, poor):
    found = by_measure(compare(poor, good, 1, FEW))["text_to_crystal mean rank"]
    assert not found.higher_is_better and found.difference.estimate.value < 0
    assert found.p_better == 1.0


def test_examples_are_matched_by_id_and_not_by_row(good, tmp_path):
    order = np.random.default_rng(3).permutation(COUNT)
    shuffled = evaluated(tmp_path, np.full(COUNT, 9.0), order)
    for found in compare(good, shuffled, 1, FEW):
        assert found.difference.estimate == dataclasses.replace(
            found.difference.estimate, value=0.0, low=0.0, high=0.0
        )
        assert found.p_better == 0.5


def test_different_data_are_refused_unless_only_the_common_crystals_are_wanted(good, tmp_path):
    part = evaluated(tmp_path, np.full(COUNT, 9.0), np.arange(4, COUNT))
    path = tmp_path / "eval.json"
    content = json.loads(path.read_text())
    content["data"]["fingerprint"] = "ef" * 16
    path.write_text(json.dumps(content))
    part = open_results(str(tmp_path), "test")
    with pytest.raises(ResultsError, match=r"cannot be compared.*--common") as caught:
        check_pools([good, part])
    assert "12 crystals" in str(caught.value) and "8 crystals" in str(caught.value)
    check_pools([good, part], common=True)
    assert {c.difference.estimate.n for c in compare(good, part, 1, FEW)} == {8}
    (section, *_) = sections_of([good, part], True, FEW)
    assert "pools of different size are not comparable" in section.intro


def write_rows(folder, table):
    pyarrow.parquet.write_table(table, folder / "ranks.parquet")


def test_examples_that_cannot_be_matched_are_refused(good, tmp_path):
    other = evaluated(tmp_path, np.full(COUNT, 9.0))
    table = other.examples()["ranks"]
    write_rows(tmp_path, pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(ResultsError, match="several rows with one material_id"):
        compare(good, other, 1, FEW)
    ids = pa.array([f"other-{k}" for k in range(COUNT)])
    write_rows(tmp_path, table.set_column(0, "material_id", ids))
    with pytest.raises(ResultsError, match=r"no example of ranks.parquet in common"):
        compare(good, other, 1, FEW)
    write_rows(tmp_path, table.drop_columns(["material_id"]))
    with pytest.raises(ResultsError, match="no columns material_id"):
        compare(good, other, 1, FEW)
    (tmp_path / "ranks.parquet").write_bytes(b"not parquet")
    with pytest.raises(ResultsError, match="Cannot read"):
        compare(good, other, 1, FEW)


def test_evaluations_without_a_common_table_are_refused(good, tmp_path):
    other = evaluated(tmp_path, np.full(COUNT, 9.0))
    (tmp_path / "ranks.parquet").rename(tmp_path / "predictions.parquet")
    other.content["tables"] = ["predictions"]
    with pytest.raises(ResultsError, match=r"for ranks, and .* for predictions, so nothing"):
        compare(good, other, 1, FEW)
    (tmp_path / "predictions.parquet").unlink()
    with pytest.raises(ResultsError, match="for nothing"):
        compare(good, other, 1, FEW)


def test_measures_are_named_by_their_columns():
    table = pa.table(
        {
            "material_id": ["a", "b"],
            "rank_x": [1.5, 12.0],
            "tied_x": [1, 0],
            "credit_right": [1.0, 0.0],
            "error_gap": [0.5, 0.1],
            "score_of_nothing": [1.0, 2.0],
        }
    )
    found = measures_of(table)
    assert list(found) == ["x top1", "x top10", "x mean rank", "right", "gap"]
    np.testing.assert_array_equal(found["x top1"][0], [0.5, 0.0])
    np.testing.assert_array_equal(found["x top10"][0], [1.0, 0.0])
    assert [higher for _, higher in found.values()] == [True, True, False, True, False]


def test_an_item_parts_the_rows_of_a_crystal(good, tmp_path):
    folders = [tmp_path / name for name in "ab"]
    for shift, folder in enumerate(folders):
        evaluated(folder, np.full(COUNT, 9.0))
        (folder / "ranks.parquet").unlink()
        rows = {"material_id": ["a", "a"], "formula": ["A", "A"], "item": ["1", "2"]}
        answers = pa.table(rows | {"credit_answer": [0.0, float(shift)]})
        pyarrow.parquet.write_table(answers, folder / "answers.parquet")
    models = [open_results(str(folder), "test") for folder in folders]
    for model in models:
        model.content["tables"] = ["answers"]
    (found,) = compare(*models, 1, FEW)
    assert (found.measure, found.values) == ("answer", (0.0, 0.5))


def test_config_and_figures_side_by_side(good, poor):
    assert config_differences([good, poor]) == [("seed", [1, 2])]
    figures = figures_of(good.content)
    top1 = figures["retrieval/by_example/text_to_crystal/top1"]
    assert (top1.value, top1.n) == (1.0, COUNT)


def test_the_page_and_the_json_have_all_parts(good, poor):
    models = [good, poor]
    sections = sections_of(models, False, FEW)
    content = json.loads(json.dumps(to_json(models, sections), allow_nan=False))
    assert [model["step"] for model in content["models"]] == [7, 7]
    assert content["config"] == {"seed": [1, 2]}
    (pair,) = content["paired"]["pairs"]
    measure = pair["measures"][0]
    assert measure["measure"] == "text_to_crystal top1" and measure["p_better"] == 0.0
    page = html_of(models, sections)
    assert "B compared with A, 12 crystals" in page and "http" not in page
    table = sections[0].tables[0]
    assert table.rows[0][-2:] == ("< 0.01", "A")  # the first model is the better one
