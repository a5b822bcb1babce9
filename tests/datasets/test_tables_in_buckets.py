"""Tables and folders of CIF files in object stores."""

import shutil

import pytest
from helpers.bucket_copies import copy_to
from helpers.object_stores import misbehaving_store
from helpers.user_tables import row, write

from clac_jax import datasets
from clac_jax.cli.main import main
from clac_jax.datasets.prepare import prepare
from clac_jax.datasets.record import DataError
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.store import open_store


@pytest.fixture(scope="module")
def bucket():
    with misbehaving_store() as running, running.activated() as url:
        yield url


@pytest.fixture
def url(bucket, request, tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tables").mkdir()
    return f"{bucket}/{request.node.name}"


def folder_of(path, tmp_path):
    return prepare("gpt_narratives", tmp_path / "data", path)[0]


def test_a_table_is_the_data_set_that_it_is_on_a_disk(url, tmp_path):
    table = write(tmp_path / "tables/a.jsonl", [row(k) for k in range(30)])
    copy_to(table.parent, url)
    stored = folder_of(f"{url}/a.jsonl", tmp_path)
    assert stored == folder_of(table, tmp_path), "its name is a hash of the content"
    assert len(datasets.load("gpt_narratives", tmp_path / "data", "test", f"{url}/a.jsonl")) == 3
    write(table, [row(k) for k in range(31)])
    copy_to(table.parent, url)
    assert folder_of(f"{url}/a.jsonl", tmp_path) != stored, "it was written again"


def test_three_split_files_stay_three(url, tmp_path):
    ranges = {"train": range(20), "val": range(20, 23), "test": range(23, 27)}
    for split, rows in ranges.items():
        write(tmp_path / f"tables/t_{split}.jsonl", [row(k) for k in rows])
    copy_to(tmp_path / "tables", url)
    assert folder_of(f"{url}/t_train.jsonl", tmp_path) == (
        folder_of(tmp_path / "tables/t_train.jsonl", tmp_path)
    )
    sizes = [
        len(datasets.load("gpt_narratives", tmp_path / "data", split, f"{url}/t_val.jsonl"))
        for split in ("train", "validation", "test")
    ]
    assert sizes == [20, 3, 4]
    open_store(url).delete("t_test.jsonl")
    with pytest.raises(DataError, match=f"{url}/t_test.jsonl is missing"):
        folder_of(f"{url}/t_train.jsonl", tmp_path)
    open_store(url).delete("t_val.jsonl")
    shutil.rmtree(tmp_path / "cache")
    folder_of(f"{url}/t_train.jsonl", tmp_path)  # its rows are split


def test_errors_name_the_url(url, tmp_path, capsys):
    bad = write(tmp_path / "tables/bad.jsonl", [row(k) | {"atoms": "?"} for k in range(3)])
    copy_to(bad.parent, url)
    with pytest.raises(NotFoundError, match=f"neither an object nor a folder {url}/none.csv"):
        folder_of(f"{url}/none.csv", tmp_path)
    arguments = ["--name=gpt_narratives", f"--data_dir={tmp_path}/data", f"--path={url}/bad.jsonl"]
    assert main(["data", "prepare", *arguments]) == 2
    error = capsys.readouterr().err
    assert "bad.jsonl" in error and str(tmp_path / "cache") not in error
