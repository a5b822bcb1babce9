"""Indexes in object stores: made, extended and searched there, and complete or not there."""

import numpy as np
import pytest
from helpers import user_tables
from helpers.bucket_copies import FailingPuts, flip_bit, names_in
from helpers.object_stores import misbehaving_store
from helpers.stub_model import StubModel

from clac_jax.cli.main import main
from clac_jax.errors import UserError, shown
from clac_jax.index.build import add, embed
from clac_jax.index.check import problems
from clac_jax.index.layout import CONTENTS, BuildError, IndexFolderError, IndexMismatchError
from clac_jax.index.plan import EmbedOptions
from clac_jax.index.store import Index
from clac_jax.stores.errors import UnavailableError
from clac_jax.stores.store import open_store

TWO = EmbedOptions(shard_rows=2)
AWAY = UnavailableError("The store is away. Wait.")


@pytest.fixture(scope="module")
def bucket():
    with misbehaving_store() as running, running.activated() as url:
        yield url


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def url(bucket, request):
    return f"{bucket}/{request.node.name.split('[')[0]}"


@pytest.fixture
def tables(tmp_path):
    """Two tables of crystals, with 5 and 3 rows."""
    ranges = {"a": range(5), "b": range(5, 8)}
    return [
        str(user_tables.write(tmp_path / f"{name}.jsonl", [user_tables.row(k) for k in rows]))
        for name, rows in ranges.items()
    ]


def test_it_is_the_index_of_a_disk(url, tables, tmp_path):
    model = StubModel()
    local = embed(model, tables[:1], tmp_path / "index", TWO)
    stored = embed(model, tables[:1], url, TWO)
    assert shown(stored.path) == url
    assert stored.checksum == local.checksum == Index(url).checksum
    for name in [*local.files, CONTENTS]:
        assert open_store(url).get(name).data == (local.path / name).read_bytes()
    assert set(names_in(url)) == {*local.files, CONTENTS}
    for left, right in zip(Index(url).vector_shards(), local.vector_shards(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_crystals_are_added(url, tables, tmp_path):
    model = StubModel()
    embed(model, tables[:1], url, TWO)
    embed(model, tables[:1], tmp_path / "index", TWO)
    local = add(model, tmp_path / "index", tables[1:])
    assert add(model, url, tables[1:]).checksum == local.checksum == Index(url).checksum
    assert problems(Index(url)) == []
    assert main(["index", "check", url]) == 0
    flip_bit(url, "vectors-00001.npy")
    assert main(["index", "check", url]) == 1


@pytest.mark.parametrize("after", [0, 3, 4])
def test_an_interrupted_upload_is_completed_without_embedding_again(
    url, tables, monkeypatch, after
):
    for name in names_in(url):
        open_store(url).delete(name)
    model = StubModel()
    with monkeypatch.context() as patched:
        FailingPuts(patched, AWAY, after)
        with pytest.raises(UnavailableError):
            embed(model, tables[:1], url, TWO)
    assert CONTENTS not in names_in(url)
    with pytest.raises(UserError, match=r"not an index|neither an object nor a folder"):
        Index(url)
    done = model.embedded
    embed(model, tables[:1], url, TWO)
    assert model.embedded == done == 5
    assert problems(Index(url)) == []


@pytest.mark.parametrize("after", [0, 3])
def test_an_interrupted_addition_leaves_the_index_as_it_was(url, tables, monkeypatch, after):
    for name in names_in(url):
        open_store(url).delete(name)
    model = StubModel()
    before = embed(model, tables[:1], url, TWO).checksum
    with monkeypatch.context() as patched:
        FailingPuts(patched, AWAY, after)
        with pytest.raises(UnavailableError):
            add(model, url, tables[1:])
    assert Index(url).checksum == before
    done = model.embedded
    assert add(model, url, tables[1:]).count == 8
    assert model.embedded == done
    assert problems(Index(url)) == []


def test_simultaneous_additions_do_not_mix(url, tables, monkeypatch, tmp_path):
    model = StubModel()
    embed(model, tables[:1], url, TWO)
    other = user_tables.write(tmp_path / "c.jsonl", [user_tables.row(9)])
    from clac_jax.index import stored

    original = stored._upload

    def upload_after_another(*arguments):
        monkeypatch.setattr(stored, "_upload", original)
        monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "other machine"))
        add(model, url, [str(other)])
        original(*arguments)

    monkeypatch.setattr(stored, "_upload", upload_after_another)
    with pytest.raises(IndexFolderError, match=f"{url}.* Another command writes"):
        add(model, url, tables[1:])
    assert Index(url).count == 6 and problems(Index(url)) == []


def test_other_data_folders_and_machines_are_refused(url, tables):
    model = StubModel()
    embed(model, tables[:1], url, TWO)
    with pytest.raises(IndexMismatchError, match=f"{url} was made from other data"):
        embed(model, tables[1:], url, TWO)
    with pytest.raises(BuildError, match="common file system"):
        embed(model, tables[:1], url, EmbedOptions(machine=(1, 2)))
    open_store(url).put("elsewhere/notes.txt", b"mine")
    with pytest.raises(IndexFolderError, match="holds other files"):
        embed(model, tables[:1], f"{url}/elsewhere", TWO)
    with pytest.raises(IndexFolderError, match=f"{url}/nothing is not an index"):
        add(model, f"{url}/nothing", tables[1:])


def test_crystals_are_read_from_a_bucket(url, tables):
    from pathlib import Path

    open_store(url).put("in/a.jsonl", Path(tables[0]))
    stored = embed(StubModel(), [f"{url}/in/a.jsonl"], f"{url}/out", TWO)
    local = embed(StubModel(), tables[:1], f"{url}/out2", TWO)
    assert stored.checksum == local.checksum
