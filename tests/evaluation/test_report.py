"""The files of an evaluation."""

import copy
import dataclasses
import json
import re

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from helpers.object_stores import misbehaving_store
from helpers.pools import StubModel, pool_of_scores

from clac_jax.errors import WorkdirError
from clac_jax.evaluation import report
from clac_jax.evaluation.results import open_results
from clac_jax.evaluation.retrieval_report import retrieval
from clac_jax.evaluation.section import Section
from clac_jax.stores.store import open_store


@pytest.fixture(scope="module")
def pool():
    return pool_of_scores(np.random.default_rng(0).normal(size=(5, 5)), formulas=list("AABBC"))


@pytest.fixture(scope="module")
def folder(pool, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated") / "deep" / "7"
    report.write(folder, pool, [retrieval(pool)])
    return folder


def test_all_files_are_written_and_nothing_else(folder):
    assert sorted(p.name for p in folder.iterdir()) == ["eval.json", "ranks.parquet", "report.html"]


def test_eval_json_identifies_model_data_and_intervals(folder):
    content = json.loads((folder / "eval.json").read_text())
    assert content["model"]["checksum"] == StubModel.checksum
    assert (content["model"]["step"], content["model"]["task"]) == (7, "contrastive")
    assert content["model"]["config"]["seed"] == 42
    assert content["data"]["fingerprint"] == "cd" * 16
    assert (content["data"]["split"], content["data"]["size"]) == ("test", 5)
    assert content["intervals"] == {"confidence": 0.95, "resamples": 50, "seed": 42}
    assert content["tasks"]["retrieval"]["pool_size"] == 5


def test_the_rows_are_those_of_the_section(folder, pool):
    table = pyarrow.parquet.read_table(folder / "ranks.parquet")
    assert table.equals(retrieval(pool).examples["ranks"])


def test_the_page_names_everything_and_loads_nothing(folder):
    text = (folder / "report.html").read_text()
    for fact in ("stub, step 7", StubModel.checksum, "cd" * 16, "test split", "seed 42"):
        assert fact in text
    assert "5 crystals of 3 compositions" in text
    assert not re.search(r"https?:|<script|<link|@import", text)
    assert text.count("<svg") == 1 and text.count("<table") == 6


def test_other_data_are_called_so(pool):
    for is_own, words in ((True, "the same as"), (False, "NOT the data"), (None, "unknown")):
        data = dataclasses.replace(pool.data, is_own=is_own)
        facts = dict(report.facts_of(dataclasses.replace(pool, data=data)))
        assert words in facts["Fingerprint"]


def test_the_same_evaluation_gives_the_same_bytes(folder, pool, tmp_path):
    for name in report.write(tmp_path, pool, [retrieval(pool)]):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def section(name, value):
    return Section(name, name, "", [], values={"value": value})


def tasks_in(folder):
    return json.loads((folder / "eval.json").read_text())["tasks"]


def test_sections_of_other_calls_stay(pool, tmp_path, capsys):
    report.write(tmp_path, pool, [section("retrieval", 1), section("classes", 2)])
    report.write(tmp_path, pool, [section("classes", 3), section("numbers", 4)])
    values = {name: values["value"] for name, values in tasks_in(tmp_path).items()}
    assert values == {"retrieval": 1, "classes": 3, "numbers": 4}
    assert capsys.readouterr().err == ""


def test_they_stay_in_an_object_store_as_well(pool):
    with misbehaving_store() as running, running.activated() as url:
        report.write(f"{url}/eval", pool, [section("retrieval", 1), section("classes", 2)])
        report.write(f"{url}/eval", pool, [section("classes", 3)])
        content = json.loads(open_store(url).get("eval/eval.json").data)
    assert {name: values["value"] for name, values in content["tasks"].items()} == {
        "retrieval": 1,
        "classes": 3,
    }


@pytest.mark.parametrize("change", ["checksum", "split", "fingerprint", "resamples"])
def test_nothing_stays_that_is_about_something_else(pool, tmp_path, capsys, change):
    report.write(tmp_path, pool, [section("retrieval", 1), section("classes", 2)])
    part = {"checksum": "model", "resamples": "resampling"}.get(change, "data")
    other = copy.copy(getattr(pool, part))
    object.__setattr__(other, change, 7 if change == "resamples" else "another")
    report.write(tmp_path, dataclasses.replace(pool, **{part: other}), [section("classes", 3)])
    assert tasks_in(tmp_path) == {"classes": {"value": 3}}
    assert "evaluate retrieval too" in capsys.readouterr().err


def rows_of(name):
    return pyarrow.table({"material_id": ["a"], "formula": ["A"], f"credit_{name}": [1.0]})


def with_rows(name):
    return Section(name, name, "", [], values={"value": 1}, examples={name: rows_of(name)})


def tables_of(folder):
    return list(open_results(str(folder), "test").examples())


def of_other_weights(pool):
    model = copy.copy(pool.model)
    object.__setattr__(model, "checksum", "another")
    return dataclasses.replace(pool, model=model)


def test_the_rows_of_a_task_stay_and_go_with_its_figures(pool, tmp_path):
    report.write(tmp_path, pool, [with_rows("retrieval"), with_rows("questions")])
    report.write(tmp_path, pool, [with_rows("retrieval")])
    assert tables_of(tmp_path) == ["questions", "retrieval"]
    (tmp_path / "mine.parquet").write_bytes(b"of the user")
    report.write(tmp_path, of_other_weights(pool), [with_rows("retrieval")])
    assert tables_of(tmp_path) == ["retrieval"]
    assert {path.stem for path in tmp_path.glob("*.parquet")} == {"retrieval", "mine"}


def test_the_rows_go_in_an_object_store_as_well(pool):
    with misbehaving_store() as running, running.activated() as url:
        report.write(f"{url}/eval", pool, [with_rows("retrieval"), with_rows("questions")])
        report.write(f"{url}/eval", pool, [with_rows("retrieval")])
        assert tables_of(f"{url}/eval") == ["questions", "retrieval"]
        report.write(f"{url}/eval", of_other_weights(pool), [with_rows("retrieval")])
        assert tables_of(f"{url}/eval") == ["retrieval"]
        names = {item.name for item in open_store(f"{url}/eval").list()}
    assert names == {"eval.json", "report.html", "retrieval.parquet"}


def test_an_evaluation_of_an_earlier_version_has_all_tables_that_are_there(pool, tmp_path):
    report.write(tmp_path, pool, [with_rows("retrieval"), with_rows("questions")])
    content = json.loads((tmp_path / "eval.json").read_text())
    del content["tables"]
    (tmp_path / "eval.json").write_text(json.dumps(content))
    assert tables_of(tmp_path) == ["questions", "retrieval"]
    report.write(tmp_path, pool, [with_rows("retrieval")])
    assert tables_of(tmp_path) == ["questions", "retrieval"]
    (tmp_path / "eval.json").write_text(json.dumps(content))
    report.write(tmp_path, of_other_weights(pool), [with_rows("retrieval")])
    assert tables_of(tmp_path) == ["retrieval"]


def test_a_file_that_is_not_an_evaluation_is_replaced(pool, tmp_path):
    for text in ("", "[]", "{}", '{"tasks": 3}'):
        (tmp_path / "eval.json").write_text(text)
        report.write(tmp_path, pool, [section("classes", 3)])
        assert tasks_in(tmp_path) == {"classes": {"value": 3}}


def test_a_folder_that_cannot_be_written_is_a_user_error(pool, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="Cannot write"):
        report.write(tmp_path / "file", pool, [])
