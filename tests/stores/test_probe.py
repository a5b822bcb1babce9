"""The check that a store keeps conditions."""

import pytest
from helpers.object_stores import gcs_store, misbehaving_store, moto_store, quick_retries

from clac_jax.stores.errors import CredentialsError, MissingBucketError, StoreError
from clac_jax.stores.probe import check_conditions
from clac_jax.stores.store import StoreOptions, open_store

QUICK = StoreOptions(patience_seconds=5)


@pytest.fixture(scope="module")
def server():
    with misbehaving_store() as running, running.activated(), quick_retries():
        yield running


@pytest.mark.parametrize("running_store", [moto_store, gcs_store])
def test_stores_that_keep_conditions(running_store):
    with running_store() as running, running.activated() as url:
        store = open_store(url)
        check_conditions(store)
        assert store.list() == [], "nothing is left"


def test_faults_are_not_reported_as_ignored_conditions(server):
    server.control(faults={"lost_answer": 0.3, "false_conflict": 0.2, "reset": 0.2}, seed=1)
    for _ in range(10):
        check_conditions(open_store(f"{server.url}/faults", QUICK))
    server.control(faults={})
    assert open_store(server.url, QUICK).list("faults") == []


@pytest.mark.parametrize("ignored", ["if-none-match", "if-match"])
def test_a_store_that_ignores_conditions(server, ignored):
    server.control(ignored_headers=[ignored])
    with pytest.raises(StoreError, match="ignores the conditions of writes"):
        check_conditions(open_store(f"{server.url}/ignored", QUICK))
    server.control(ignored_headers=[])
    assert open_store(server.url, QUICK).list("ignored") == []


def test_a_missing_bucket_and_missing_permissions_are_reported(server):
    with pytest.raises(MissingBucketError):
        check_conditions(open_store("s3://other", QUICK))
    server.control(denied=True)
    with pytest.raises(CredentialsError):
        check_conditions(open_store(server.url, QUICK))
    server.control(denied=False)
