"""Outputs in object stores are complete or not there."""

import pytest
from helpers.bucket_copies import FailingPuts, names_in
from helpers.object_stores import moto_store

from clac_jax.errors import UserError, origin_of, shown
from clac_jax.files.paths import PathError
from clac_jax.stores.errors import StoreError, UnavailableError
from clac_jax.stores.outputs import check_output, output_file, output_folder
from clac_jax.stores.store import open_store

AWAY = UnavailableError("The store is away. Wait.")


@pytest.fixture(scope="module")
def bucket():
    with moto_store() as running, running.activated() as url:
        yield url


@pytest.fixture
def url(bucket, request):
    return f"{bucket}/{request.node.name.split('[')[0]}"


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def make(target, *, names=("done.json", "a", "b/c", "z", ".lock"), text="x", commit="done.json"):
    with output_folder(target, "--out", commit) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    return folder


def test_a_path_is_written_directly(tmp_path):
    assert make(tmp_path / "out") == tmp_path / "out"
    assert (tmp_path / "out/b/c").read_text() == "x"
    with output_file(tmp_path / "x.json", "--json") as path:
        assert path == tmp_path / "x.json"


def test_a_folder_is_uploaded_without_what_only_matters_here(url, temporary):
    make(url)
    assert names_in(url) == ["a", "b/c", "done.json", "z"]
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("after", [0, 2, 3])
def test_interrupted_anywhere_it_is_not_treated_as_complete(url, after, monkeypatch, temporary):
    make(url, text="old")
    with monkeypatch.context() as patched:
        puts = FailingPuts(patched, AWAY, after)
        with pytest.raises(UnavailableError, match=r"The store is away\. .* is kept in") as error:
            make(url, text="new")
    assert len(puts.calls) > after
    assert open_store(url).head("done.json") is None
    kept = str(error.value).partition("kept in ")[2].partition(":")[0]
    assert kept.startswith(str(temporary)), "the message names the folder, not the URL"
    with open(f"{kept}/b/c", encoding="utf-8") as file:
        assert file.read() == "new"
    make(url, text="new")
    assert open_store(url).get("done.json").data == b"new"


def test_the_file_that_completes_it_is_put_last(url, monkeypatch):
    puts = FailingPuts(monkeypatch, AWAY, 99)
    make(url)
    assert puts.calls[-1] == "done.json" and len(puts.calls) == 4


def test_nothing_is_uploaded_after_an_error(url, temporary):
    with pytest.raises(UserError, match=f"{url}/x is wrong"), output_folder(url, "--out", "") as f:
        (f / "x").write_text("x")
        raise UserError(f"{f / 'x'} is wrong. Correct it.")
    assert names_in(url) == []
    assert list(temporary.iterdir()) == []


def test_a_file_and_those_named_after_it(url):
    with output_file(f"{url}/figures/map.png", "--png") as path:
        path.write_text("1")
        path.with_name("map-band_gap.png").write_text("2")
        assert shown(path) == f"{url}/figures/map.png"
    assert names_in(f"{url}/figures") == ["map-band_gap.png", "map.png"]
    assert origin_of("/elsewhere") is None


def test_wrong_targets_are_reported_before_the_work(url):
    body = pytest.fail
    for target, kind in [
        ("s3://no-such-bucket/x", StoreError),
        ("http://host/x", PathError),
        ("s3:/bucket/x", PathError),
    ]:
        with pytest.raises(kind), output_folder(target, "--out", ""):
            body("not reached")
    with pytest.raises(StoreError, match="names a bucket"), output_file("s3://bucket", "--json"):
        body("not reached")
    with pytest.raises(StoreError):
        check_output("s3://no-such-bucket/x")
    check_output(url)
    check_output("/a/path")
    assert names_in(url) == [], "what checks whether it can be written is removed"
