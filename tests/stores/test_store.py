"""Reading and writing objects, against moto's S3 server."""

import zlib

import pytest
from helpers.object_stores import moto_store

from clac_jax.stores.errors import ConflictError, MissingBucketError, NotFoundError
from clac_jax.stores.store import Listed, StoreOptions, Version, open_store

QUICK = StoreOptions(patience_seconds=0.5, part_bytes=1 << 20)


@pytest.fixture(scope="module")
def bucket():
    with moto_store() as running, running.activated() as url:
        yield url


@pytest.fixture
def store(bucket, request):
    return open_store(f"{bucket}/{request.node.name.split('[')[0]}", QUICK)


def test_bytes_are_read_back_as_they_were_put(store):
    version = store.put("folder/a", b"12345")
    assert store.get("folder/a").data == b"12345"
    assert store.get("folder/a").version == version
    assert store.get("folder/a", 1, 3).data == b"23"
    assert store.get("folder/a", 3).data == b"45"
    assert store.head("folder/a") == Listed("folder/a", 5, version)


def test_files_are_uploaded_and_downloaded_with_their_checksum(store, tmp_path):
    for name, size in {"empty": 0, "small": 1000, "of several parts": 2_500_000}.items():
        content = bytes(range(251)) * (size // 251) + b"x" * (size % 251)
        (tmp_path / "up").write_bytes(content)
        store.put(name, tmp_path / "up")
        assert store.download(name, tmp_path / "down") == zlib.crc32(content)
        assert (tmp_path / "down").read_bytes() == content


def test_a_missing_object(store, tmp_path):
    assert store.head("x") is None
    store.delete("x")
    for read in (lambda: store.get("x"), lambda: store.download("x", tmp_path / "x")):
        with pytest.raises(NotFoundError, match=r"a_missing_object/x does not exist"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_put_if_absent_writes_once(store):
    version = store.put("lease", b"mine", if_absent=True)
    with pytest.raises(ConflictError, match="somebody else"):
        store.put("lease", b"yours", if_absent=True)
    assert store.get("lease").data == b"mine"
    assert store.put("lease", b"mine", if_absent=True) == version, "these bytes are there"


def test_put_if_version_writes_over_that_version_only(store):
    first = store.put("ledger", b"1")
    second = store.put("ledger", b"2", if_version=Version.from_json(first.as_json()))
    with pytest.raises(ConflictError):
        store.put("ledger", b"3", if_version=first)
    store.delete("ledger")
    with pytest.raises(ConflictError):
        store.put("ledger", b"3", if_version=second)
    assert store.head("ledger") is None


def test_listing_and_children(store):
    names = ["a/1", "a/b/2", "ab", "c"]
    for name in names:
        store.put(name, name.encode())
    assert [item.name for item in store.list()] == names
    assert [item.name for item in store.list("a")] == ["a/1", "a/b/2"]
    child = store.child("a")
    assert child.url == f"{store.url}/a"
    assert [item.name for item in child.list()] == ["1", "b/2"]
    assert child.get("b/2").data == b"a/b/2"


def test_a_missing_bucket_is_not_a_missing_object(bucket, tmp_path):
    store = open_store("s3://other-bucket/folder", QUICK)
    requests = (
        lambda: store.get("x"),
        lambda: store.head("x"),
        lambda: store.download("x", tmp_path / "x"),
        lambda: store.put("x", b""),
        lambda: store.put("x", b"", if_absent=True),
        lambda: store.list(),
        lambda: store.delete("x"),
    )
    for request in requests:
        with pytest.raises(MissingBucketError, match="There is no bucket s3://other-bucket "):
            request()
