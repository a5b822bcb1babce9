"""Checkpoints of a run in a bucket are removed, unless somebody writes there."""

import pytest
from helpers.bucket_copies import copy_to, names_in
from helpers.object_stores import misbehaving_store
from helpers.states import epochs, save_run

from clac_jax.bucket.lease import acquire
from clac_jax.bucket.ledger import LEDGER, Ledger
from clac_jax.bucket.recovery import recover
from clac_jax.cli.main import main
from clac_jax.stores.store import open_store


@pytest.fixture(scope="module")
def bucket():
    with misbehaving_store() as running, running.activated() as url:
        yield url


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "exp"
    save_run(workdir, epochs(0.5, 0.3, 0.4))
    return workdir


@pytest.fixture
def url(bucket, run, request, tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))
    return copy_to(run, f"{bucket}/{request.node.name.split('[')[0]}")


def steps_in(url):
    parts = [name.split("/") for name in names_in(url)]
    return sorted({int(each[1]) for each in parts if each[0] == "checkpoints"})


def test_of_a_run_that_was_copied_there(url, capsys):
    assert main(["ckpt", "rm", url, "10"]) == 0
    assert capsys.readouterr().out == f"removed {url}/checkpoints/10\n"
    assert steps_in(url) == [20, 30]
    assert main(["ckpt", "verify", url]) == 0


@pytest.mark.parametrize(
    "arguments, words", [(["30"], "--force"), (["31"], "There are 10, 20, 30")]
)
def test_the_newest_and_missing_ones_are_refused(url, arguments, words, capsys):
    assert main(["ckpt", "rm", url, *arguments]) == 2
    assert words in capsys.readouterr().err
    assert steps_in(url) == [10, 20, 30]


def test_of_a_run_with_a_ledger(url, capsys):
    store = open_store(url)
    lease = acquire(store, 60)
    recover(store, lease)
    assert main(["ckpt", "ls", url]) == 0
    lease.release(finished=True)
    assert main(["ckpt", "rm", f"{url}/checkpoints", "20", "10", "10"]) == 0
    assert steps_in(url) == [30]
    ledger = Ledger.from_bytes(store.get(LEDGER).data, "it")
    assert list(ledger.checkpoints) == [30] and ledger.finished and not ledger.is_held
    assert ledger.deleting == ()
    assert main(["ckpt", "verify", url]) == 0


def test_while_a_run_writes_there_it_is_refused(url, capsys):
    store = open_store(url)
    lease = acquire(store, 3)
    lease.start_renewing(lambda error: None)
    try:
        recover(store, lease)
        assert main(["ckpt", "rm", url, "10"]) == 2
    finally:
        lease.release()
    assert "is in use by process" in capsys.readouterr().err
    assert steps_in(url) == [10, 20, 30]
