"""Local copies of objects and folders in a bucket."""

import json
import subprocess
import sys

import pytest
from helpers.object_stores import misbehaving_store
from helpers.paths import ROOT

from clac_jax.errors import WorkdirError
from clac_jax.stores.copies import local_copy
from clac_jax.stores.errors import NotFoundError, UnavailableError
from clac_jax.stores.store import Store, open_store


@pytest.fixture(scope="module")
def server():
    with misbehaving_store() as running, running.activated():
        yield running


@pytest.fixture
def folder(server, request, tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))
    store = open_store(f"{server.url}/{request.node.name}/data")
    for name in ("a.csv", "b/c.csv"):
        store.put(name, name.encode())
    return store


def reads(server):
    return server.control()["requests"].get("GET", 0)


def contents(place):
    return {
        path.relative_to(place).as_posix(): path.read_text()
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def test_a_path_is_returned_as_it_is(tmp_path):
    assert local_copy(tmp_path / "x", "--data") == tmp_path / "x"


def test_a_folder_and_an_object(folder):
    place = local_copy(folder.url, "--data")
    assert place.name == "data"
    assert contents(place) == {"a.csv": "a.csv", "b/c.csv": "b/c.csv"}
    path = local_copy(f"{folder.url}/b/c.csv", "--data")
    assert (path.name, path.read_text()) == ("c.csv", "b/c.csv")


def test_the_second_time_only_what_changed_is_downloaded(folder, server):
    place = local_copy(folder.url, "--data")
    folder.put("new", b"new")
    folder.delete("a.csv")
    before = reads(server)
    assert contents(local_copy(folder.url, "--data")) == {"b/c.csv": "b/c.csv", "new": "new"}
    folder.put("new", b"NEW")
    (place / "b/c.csv").write_text("cut")
    assert contents(local_copy(folder.url, "--data")) == {"b/c.csv": "b/c.csv", "new": "NEW"}
    after = reads(server)
    assert contents(local_copy(folder.url, "--data")) == {"b/c.csv": "b/c.csv", "new": "NEW"}
    # Each call also lists the folder, and looks for an object of its name.
    assert reads(server) - after == 2
    assert after - before == 2 * 2 + 3


def test_an_object_takes_the_place_of_a_folder(folder):
    place = local_copy(folder.url, "--data")
    for name in ("a.csv", "b/c.csv"):
        folder.delete(name)
    parent, name = folder.parent()
    parent.put(name, b"an object now")
    assert local_copy(folder.url, "--data") == place
    assert place.read_text() == "an object now"


def test_a_download_that_failed_is_not_trusted_later(folder, monkeypatch):
    place = local_copy(folder.url, "--data")
    folder.put("a.csv", b"A.CSV")  # as long as before

    def fail(*_):
        raise UnavailableError("away")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "download", fail)
        with pytest.raises(UnavailableError):
            local_copy(folder.url, "--data")
    assert contents(place)["a.csv"] == "a.csv"
    assert contents(local_copy(folder.url, "--data"))["a.csv"] == "A.CSV"


def test_a_copy_with_a_flipped_bit_is_replaced_and_reported(folder, server, capsys):
    place = local_copy(folder.url, "--data")
    (place / "a.csv").write_text("A.csv")  # as long as before
    before = reads(server)
    assert contents(local_copy(folder.url, "--data")) == {"a.csv": "a.csv", "b/c.csv": "b/c.csv"}
    assert reads(server) - before == 3, "only the damaged one"
    damaged = f"The copy of {folder.url}/a.csv on this machine is damaged, and replaced."
    assert capsys.readouterr().err == f"warning: {damaged}\n"
    assert contents(local_copy(folder.url, "--data"))["a.csv"] == "a.csv"
    assert capsys.readouterr().err == ""


def test_a_copy_of_an_older_version_has_no_checksum_and_is_not_trusted(folder, capsys):
    place = local_copy(folder.url, "--data")
    recorded = json.loads((place.parent / "copy.json").read_text())
    recorded["files"] = {name: facts[:2] for name, facts in recorded["files"].items()}
    (place.parent / "copy.json").write_text(json.dumps(recorded))
    (place / "a.csv").write_text("A.csv")
    assert contents(local_copy(folder.url, "--data"))["a.csv"] == "a.csv"
    assert capsys.readouterr().err == ""


def test_a_missing_name_is_reported_with_its_flag(folder):
    with pytest.raises(NotFoundError, match=r"--data: there is neither .*/other\. Check"):
        local_copy(f"{folder.url}/other", "--data")


def test_a_cache_that_cannot_be_written(folder, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(WorkdirError, match="Set CLAC_JAX_CACHE to a folder"):
        local_copy(folder.url, "--data")


def test_several_processes_share_a_copy(folder, server):
    for number in range(20):
        folder.put(f"many/{number}", b"x" * 1000)
    code = (
        "import sys\nfrom clac_jax.stores.copies import local_copy\n"
        "place = local_copy(sys.argv[1], '--data')\n"
        "print(sorted((p.name, p.stat().st_size) for p in place.glob('many/*')))"
    )
    before = reads(server)
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, folder.url], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        for _ in range(3)
    ]
    outputs = {program.communicate(timeout=60)[0] for program in programs}
    assert outputs == {f"{sorted((str(number), 1000) for number in range(20))}\n"}
    assert all(program.returncode == 0 for program in programs)
    assert reads(server) - before == 3 * 2 + 22, "downloaded once"
