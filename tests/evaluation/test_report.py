"""The files of an evaluation."""

import dataclasses
import json
import re

import numpy as np
import pyarrow.parquet
import pytest
from helpers.pools import StubModel, pool_of_scores

from clac_jax.errors import WorkdirError
from clac_jax.evaluation import report
from clac_jax.evaluation.retrieval_report import retrieval


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


def test_a_folder_that_cannot_be_written_is_a_user_error(pool, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="Cannot write"):
        report.write(tmp_path / "file", pool, [])
