"""Reading and writing objects, on every kind of store."""

import errno
import mmap
import os
import sys
import zlib

import pytest
from helpers.object_stores import azurite_store, gcs_store, misbehaving_store, moto_store

from clac_jax.errors import WorkdirError
from clac_jax.stores import store as store_module
from clac_jax.stores.errors import ConflictError, MissingBucketError, NotFoundError, StoreError
from clac_jax.stores.retries import Bandwidth
from clac_jax.stores.store import Listed, StoreOptions, Version, open_store

# S3 accepts no smaller parts.
PART = 5 << 20
QUICK = StoreOptions(patience_seconds=0.5, part_bytes=PART)
STORES = [
    pytest.param(moto_store, id="moto"),
    pytest.param(gcs_store, id="gcs"),
    pytest.param(misbehaving_store, id="ours"),
    pytest.param(azurite_store, id="azurite", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=STORES)
def bucket(request):
    with request.param() as running, running.activated() as url:
        yield url


@pytest.fixture
def store(bucket, request):
    return open_store(f"{bucket}/{request.node.name.split('[')[0]}", QUICK)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    path = tmp_path_factory.mktemp("large") / "file"
    path.write_bytes(bytes(range(251)) * (2 * PART // 251) + b"the last part")
    return path


def test_bytes_are_read_back_as_they_were_put(store):
    version = store.put("folder/a", b"12345")
    assert store.get("folder/a").data == b"12345"
    assert store.get("folder/a").version == version
    assert store.get("folder/a", 1, 3).data == b"23"
    assert store.get("folder/a", 3).data == b"45"
    assert store.head("folder/a") == Listed("folder/a", 5, version)


@pytest.mark.parametrize("content", [b"", b"x" * 1000], ids=["empty", "small"])
def test_files_are_uploaded_and_downloaded_with_their_checksum(store, tmp_path, content):
    (tmp_path / "up").write_bytes(content)
    store.put("file", tmp_path / "up")
    assert store.download("file", tmp_path / "down") == zlib.crc32(content)
    assert (tmp_path / "down").read_bytes() == content


@pytest.mark.parametrize("condition", [{}, {"if_absent": True}], ids=["plain", "if absent"])
@pytest.mark.parametrize("single", [PART, 1 << 30], ids=["in parts", "in one request"])
def test_a_large_file(store, large, tmp_path, monkeypatch, condition, single):
    monkeypatch.setattr(store_module, "SINGLE_PUT_BYTES", single)
    store.delete("large")
    version = store.put("large", large, **condition)
    assert store.head("large").version == version
    assert store.download("large", tmp_path / "down") == zlib.crc32(large.read_bytes())
    if condition:
        assert store.put("large", large, if_absent=True) == version, "the same bytes are there"
        with pytest.raises(ConflictError):
            store.put("large", large.read_bytes()[:-1] + b"!", if_absent=True)
        assert store.head("large").version == version
        assert store.put("large", large.read_bytes() + b"!", if_version=version) != version
        with pytest.raises(ConflictError):
            store.put("large", large, if_version=version)


def test_a_copy_within_the_store(store, monkeypatch):
    content = b"12345" * 1000
    store.put("folder/a", content)
    store.put("b", b"replaced")
    assert store.copy("folder/a", "b", len(content))
    assert store.get("b").data == content == store.get("folder/a").data
    assert not store.copy("missing", "b", 3), "the caller puts it"
    monkeypatch.setattr(store_module, "COPY_BYTES", 100)
    assert not store.copy("folder/a", "c", len(content)) and store.head("c") is None


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
    names = ["a/1", "a/b/2", "ab", "c d & <e> ü%41"]
    for name in names:
        store.put(name, name.encode())
    assert [item.name for item in store.list()] == names
    assert [item.name for item in store.list("a")] == ["a/1", "a/b/2"]
    child = store.child("a")
    assert child.url == f"{store.url}/a"
    assert [(item.name, item.size) for item in child.list()] == [("1", 3), ("b/2", 5)]
    assert child.get("b/2").data == b"a/b/2"
    store.delete(names[-1])
    assert [item.name for item in store.list()] == names[:-1]


def test_a_missing_bucket_is_not_a_missing_object(bucket, tmp_path):
    name = f"{bucket}-other"
    store = open_store(f"{name}/folder", QUICK)
    requests = (
        lambda: store.get("x"),
        lambda: store.head("x"),
        lambda: store.download("x", tmp_path / "x"),
        lambda: store.put("x", b""),
        lambda: store.put("x", b"", if_absent=True),
        lambda: store.list(),
    )
    for request in requests:
        with pytest.raises(MissingBucketError, match=f"There is no bucket {name} "):
            request()


@pytest.mark.parametrize("name", ["../other", "a//b", "a/./b"])
def test_names_that_lead_elsewhere_are_refused(store, name):
    with pytest.raises(StoreError, match="refuses it"):
        store.put(name, b"1")


def test_without_obstore_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(StoreError, match=r'pip install "clac-jax\[cloud\]"'):
        open_store("gs://bucket/x")


def test_settings_that_obstore_refuses_are_not_quoted(monkeypatch):
    monkeypatch.setenv("AWS_COPY_IF_NOT_EXISTS", "hunter2")
    with pytest.raises(StoreError, match="Check the variables that begin with AWS_") as caught:
        open_store("s3://bucket/x")
    assert "hunter2" not in str(caught.value)


def test_the_limit_of_bytes_counts_both_directions(monkeypatch, tmp_path, bucket):
    taken = []
    monkeypatch.setattr(Bandwidth, "take", lambda self, count: taken.append(count))
    store = open_store(f"{bucket}/limit", QUICK)
    store.put("a", b"123")
    (tmp_path / "large").write_bytes(bytes(PART + 1))
    store.put("large", tmp_path / "large")
    store.download("large", tmp_path / "down")
    assert sorted(taken) == [1, 1, 3, PART, PART]


@pytest.mark.parametrize("condition", [{}, {"if_absent": True}], ids=["plain", "if absent"])
def test_a_file_that_cannot_be_read_is_not_a_failure_of_the_store(
    store, large, monkeypatch, condition
):
    def fail(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    monkeypatch.setattr(mmap, "mmap", fail)
    with pytest.raises(WorkdirError, match="Cannot read a file to upload: Input/output error"):
        store.put("large", large, **condition)
    assert store.counts.retries == 0
    with pytest.raises(FileNotFoundError):
        store.put("large", large.with_name("missing"))


def test_a_file_system_that_cannot_map_files(store, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(mmap, "mmap", fail)
    (tmp_path / "file").write_bytes(b"12345" * 300_000)
    store.put("file", tmp_path / "file")
    assert store.get("file").data == b"12345" * 300_000


def test_counts(store):
    before = store.counts.requests
    store.put("a", b"123")
    store.child("b").put("a", b"1234")
    store.get("a")
    assert store.counts.requests == before + 3
    assert (store.counts.bytes_up, store.counts.bytes_down) == (7, 3)
    assert store.counts.retries == 0
