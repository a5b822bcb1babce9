"""Runs and checkpoints in object stores are read as those on a disk, and named by their URLs."""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
from helpers.bucket_copies import copy_to, flip_bit, names_in
from helpers.frozen_states import are_linked, groups_in, save_states, state_at, values_of
from helpers.object_stores import misbehaving_store
from helpers.states import assert_same, begin, changed, epochs, save_run

from clac_jax.bucket.lease import acquire
from clac_jax.bucket.recovery import recover
from clac_jax.checkpoint import files, remote
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.committed import is_data
from clac_jax.checkpoint.fetched import LEDGER, fetch_run, split_name
from clac_jax.checkpoint.files import DamagedCheckpointError, UnreadableCheckpointError
from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.locate import CheckpointNotFoundError, is_inside, locate
from clac_jax.checkpoint.remote import REMOTE_FILE, read_remote
from clac_jax.cli.main import main
from clac_jax.errors import set_origin
from clac_jax.stores.errors import MissingBucketError
from clac_jax.stores.store import Store, open_store

LARGE = "state/_METADATA"


@pytest.fixture(scope="module")
def store():
    with misbehaving_store() as running, running.activated():
        yield running


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of three checkpoints on a disk, and their arrays."""
    workdir = tmp_path_factory.mktemp("runs") / "exp"
    saved = save_run(workdir, epochs(0.5, 0.3, 0.4))
    (workdir / "metrics.jsonl").write_text("{}\n")
    return workdir, saved


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "SMALL_FILE", 2000)  # so that there are large files
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def intact(store, run):
    """URL of a copy of the run that no test changes."""
    return copy_to(run[0], f"{store.url}/intact")


@pytest.fixture
def url(store, run, request):
    """URL of a copy of the run that a test may change."""
    return copy_to(run[0], f"{store.url}/{request.node.name.split('[')[0]}")


@pytest.mark.parametrize(
    "suffix, step",
    [
        ("", 30),
        ("/", 30),
        ("@last", 30),
        ("@best", 20),
        ("@step=10", 10),
        ("@epoch:1", 20),
        ("/checkpoints", 30),
        ("/checkpoints@best", 20),
        ("/checkpoints/10", 10),
        ("/checkpoints/10/", 10),
    ],
)
def test_every_name_of_a_checkpoint_has_its_url(intact, run, suffix, step):
    info = locate(intact + suffix)
    assert info.step == step
    assert_same(read_arrays(info, info.leaves), run[1][step])


def test_large_files_are_downloaded_when_arrays_are_read(intact, run):
    info = locate(f"{intact}@best")
    assert read_remote(info.folder).files.keys() == {LARGE}
    assert not (info.folder / LARGE).exists()
    read_arrays(info, ["step"])
    assert (info.folder / LARGE).read_bytes() == (run[0] / "checkpoints/20" / LARGE).read_bytes()


def test_a_copy_is_used_again(intact):
    info = locate(intact)
    read_arrays(info, ["step"])
    copies = {p: p.stat().st_ino for p in Path(info.folder).rglob("*") if p.is_file()}
    assert read_arrays(locate(intact), ["step"])["step"] == 30
    kept = [p for p, inode in copies.items() if p.stat().st_ino == inode]
    assert {p.name for p in copies} - {p.name for p in kept} <= {"files.json", REMOTE_FILE}


def test_a_checkpoint_without_its_manifest_does_not_exist(url):
    assert locate(url).step == 30  # which leaves a copy
    open_store(url).delete("checkpoints/30/files.json")
    assert locate(url).step == 20
    with pytest.raises(CheckpointNotFoundError, match=f"{url}/checkpoints/30 does not exist") as e:
        locate(f"{url}/checkpoints/30")
    assert "there are 10, 20" in str(e.value)
    assert main(["ckpt", "verify", f"{url}/checkpoints/30"]) == 2


def test_another_checkpoint_of_the_same_step_replaces_the_copy(url, tmp_path):
    read_arrays(locate(f"{url}@step=10"), ["step"])
    other = save_run(tmp_path / "other", epochs(0.9), state=lambda seed: _state(seed + 5))
    copy_to(tmp_path / "other", url)
    info = locate(f"{url}@step=10")
    assert info.metrics == {"val_loss": 0.9}
    assert_same(read_arrays(info, info.leaves), other[10])


def _state(seed):
    from helpers.states import make_state

    return make_state(seed)


def test_the_ledger_of_a_run_decides_which_checkpoints_exist(url):
    store = open_store(url)
    crcs = {n: zlib.crc32(store.get(f"checkpoints/{n}/files.json").data) for n in (10, 20, 30)}
    store.put(LEDGER, json.dumps({"checkpoints": {10: crcs[10], 20: crcs[20] ^ 1}}).encode())
    assert locate(url).step == 10  # 20 has another manifest, 30 is not committed
    with pytest.raises(CheckpointNotFoundError, match="there are 10"):
        locate(f"{url}/checkpoints/20")
    store.put(LEDGER, b"not JSON")
    assert main(["ckpt", "ls", url]) == 2


def test_a_run_in_a_bucket_is_read_as_it_resumes(url, run, monkeypatch):
    """By one object per checkpoint, whatever late writers do to the names that are used again."""
    store = open_store(url)
    lease = acquire(store, 60)
    recover(store, lease)
    lease.release()
    for step in (10, 20, 30):
        for name in ("run/metadata", LARGE):
            store.put(f"checkpoints/{step}/{name}", b"{}")
    store.delete("checkpoints/20/files.json")
    read = []
    for call in ("get", "download"):
        original = getattr(Store, call)

        def counted(self, name, *args, original=original):
            if not is_data(name):
                read.append(name)
            return original(self, name, *args)

        monkeypatch.setattr(Store, call, counted)
    folder = fetch_run(url)
    assert len(read) == 4, "the ledger, and one for each checkpoint"
    assert [read_info(folder / "checkpoints" / str(n)).step for n in (10, 20, 30)] == [10, 20, 30]
    fetch_run(url)
    assert read[4:] == [LEDGER], "the copy is still right"
    (folder / "checkpoints" / "10" / "run" / "metadata").write_bytes(b"damaged")
    (folder / "checkpoints" / "20" / LARGE).unlink()
    fetch_run(url)
    assert read_info(folder / "checkpoints" / "10").step == 10
    info = locate(f"{url}@step=20")
    assert_same(read_arrays(info, info.leaves), run[1][20])


def test_the_files_under_their_own_names_serve_where_a_commit_is_lost(url):
    store = open_store(url)
    crc = zlib.crc32(store.get("checkpoints/20/files.json").data)
    for commits in ({20: "commits/lost.zip"}, {20: "run.ledger.json"}):
        ledger = {"checkpoints": {20: crc}, "commits": commits}
        store.put(LEDGER, json.dumps(ledger).encode())
        assert locate(url).step == 20


def test_a_listing_that_lacks_files_is_not_believed(intact, monkeypatch):
    from clac_jax.stores.store import Store

    original = Store.list
    late = [LARGE, "run/metadata"]
    monkeypatch.setattr(
        Store,
        "list",
        lambda store, prefix="": [
            each for each in original(store, prefix) if not each.name.endswith(tuple(late))
        ],
    )
    info = locate(f"{intact}@best")
    assert_same(read_arrays(info, ["step"]), {"step": np.int32(20)})


@pytest.mark.parametrize("name", [LARGE, "state/manifest.ocdbt", "files.json"])
def test_a_flipped_bit_in_the_bucket_is_found_and_named(url, name, capsys):
    assert main(["ckpt", "verify", url]) == 0  # the copies are right from here on
    flip_bit(url, f"checkpoints/20/{name}")
    capsys.readouterr()
    assert main(["ckpt", "verify", url]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"{url}/checkpoints/20/{name} " in lines[1] and "DAMAGED" in lines[1]
    assert [line.endswith("intact") for line in lines] == [True, False, True]


@pytest.mark.parametrize("name", [LARGE, "state/manifest.ocdbt"])
@pytest.mark.parametrize("damage", ["flipped", "missing", "cut"])
def test_damaged_files_are_not_read(url, name, damage, cache):
    store, path_there = open_store(url), f"checkpoints/20/{name}"
    if damage == "flipped":
        flip_bit(url, path_there)
    elif damage == "missing":
        store.delete(path_there)
    else:
        store.put(path_there, store.get(path_there).data[:-1])
    with pytest.raises(DamagedCheckpointError) as error:
        info = locate(f"{url}@step=20")
        read_arrays(info, info.leaves)
    assert f"{url}/checkpoints/20/{name}" in str(error.value)
    assert str(cache) not in str(error.value)


def test_a_damaged_local_copy_is_downloaded_again(intact, run):
    info = locate(f"{intact}@best")
    read_arrays(info, ["step"])
    copy = Path(info.folder) / LARGE
    copy.write_bytes(bytes(len(copy.read_bytes())))
    with pytest.raises(UnreadableCheckpointError, match=f"copy of {intact}/checkpoints/20/{LARGE}"):
        read_arrays(info, info.leaves)
    assert_same(read_arrays(info, info.leaves), run[1][20])


def test_a_run_starts_from_a_checkpoint_in_a_bucket(intact, run, tmp_path):
    (tmp_path / "new").mkdir()
    start = begin(tmp_path / "new", changed(resume_from=f"{intact}@best"))
    assert f"starts from another run's checkpoint {intact}/checkpoints/20 " in start.origin
    assert_same({"key": start.arrays["key"]}, {"key": run[1][20]["key"]})
    report = json.loads((tmp_path / "new" / "restore_report.json").read_text())
    assert report["checkpoint"] == f"{intact}/checkpoints/20"


def test_names_of_the_own_workdir_are_recognized(tmp_path, store):
    set_origin(tmp_path / "mirror", "s3://other/exp")
    assert is_inside("s3://other/exp@best", tmp_path / "mirror")
    assert not is_inside("s3://other/exp-2@best", tmp_path / "mirror")
    assert not is_inside("s3://other/exp", tmp_path)


def test_missing_things_are_named(store, intact, capsys):
    for name, words in [
        (f"{store.url}/nothing", f"Checkpoint not found: {store.url}/nothing holds none"),
        ("s3://no-such-bucket/exp", "There is no bucket s3://no-such-bucket"),
        (f"{intact}@epoch=9", f"{intact}/checkpoints has none for @epoch=9"),
        ("s3:/bucket/exp", "Write s3://bucket/exp"),
    ]:
        assert main(["ckpt", "show", name]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    with pytest.raises(MissingBucketError):
        fetch_run("s3://no-such-bucket/exp")


def test_the_commands_of_checkpoints(intact, run, capsys):
    for arguments in (["ls", intact], ["show", f"{intact}@best"], ["diff", intact, str(run[0])]):
        assert main(["ckpt", *arguments]) == 0
    assert json.loads(_output(capsys, ["ckpt", "show", f"{intact}@best", "--json"]))["folder"] == (
        f"{intact}/checkpoints/20"
    )
    local = json.loads(_output(capsys, ["ckpt", "ls", str(run[0]), "--json"]))
    assert json.loads(_output(capsys, ["ckpt", "ls", intact, "--json"])) == local


def _output(capsys, arguments):
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


def test_checkpoints_copied_out_of_their_run(store, run):
    one = copy_to(run[0] / "checkpoints/20", f"{store.url}/kept/my-best")
    assert locate(one).step == 20
    assert locate(copy_to(run[0] / "checkpoints", f"{store.url}/kept/all@x")).step == 30


def test_copied_back_to_a_disk_it_is_an_ordinary_checkpoint(intact, run, tmp_path):
    store = open_store(intact)
    for name in names_in(intact):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        store.download(name, tmp_path / name)
    info = locate(str(tmp_path))
    assert_same(read_arrays(info, info.leaves), run[1][30])
    tree = ocp.PyTreeCheckpointer().restore(tmp_path / "checkpoints/20/state")
    np.testing.assert_array_equal(tree["key"], run[1][20]["key"])


def test_tensorstore_reads_the_arrays_in_the_bucket(intact, run, store):
    bucket, _, folder = f"{intact}/checkpoints/20/state/".removeprefix("s3://").partition("/")
    base = {
        "driver": "s3",
        "bucket": bucket,
        "path": folder,
        "endpoint": store.environment["AWS_ENDPOINT_URL"],
        "aws_region": "us-east-1",
    }
    for path, array in run[1][20].items():
        place = {"driver": "ocdbt", "base": base, "path": f"{path.replace('/', '.')}/"}
        opened = ts.open({"driver": "zarr", "kvstore": place}, open=True, read=True).result()
        np.testing.assert_array_equal(opened.read().result(), array, err_msg=path)


def test_names_are_split_as_on_the_command_line():
    assert split_name("s3://b/exp@best") == ("s3://b/exp", "best")
    assert split_name(" gs://b/a@b/exp@step:8 ") == ("gs://b/a@b/exp", "step:8")
    assert split_name("s3://b/exp@best=2") == ("s3://b/exp", "best=2")
    assert split_name("s3://b/a@b") == ("s3://b/a@b", "")
    assert split_name("s3://b/exp@best@last") == ("s3://b/exp@best", "last")


def test_a_copy_is_removed_with_its_checkpoint(url, run):
    folder = Path(locate(f"{url}@step=10").folder)
    for name in names_in(url):
        if name.startswith("checkpoints/10/"):
            open_store(url).delete(name)
    locate(url)
    assert not folder.exists()
    with pytest.raises(UnreadableCheckpointError):
        read_info(locate(url).folder.parent / "10")


def test_a_checkpoint_that_is_removed_while_it_is_copied_is_not_damaged(url, monkeypatch, capsys):
    """By the retention of its run, which continues; the manifest is deleted first."""
    get, gone = Store.get, f"{url}/checkpoints/10"

    def get_and_remove(store, name, *arguments):
        content = get(store, name, *arguments)
        if (store.url, name) == (gone, "files.json"):
            for each in ("files.json", *(each.name for each in store.list())):
                store.delete(each)
        return content

    monkeypatch.setattr(Store, "get", get_and_remove)
    assert main(["ckpt", "ls", url]) == 0
    output = capsys.readouterr()
    assert "damaged" not in output.out + output.err
    assert [path.name for path in sorted((fetch_run(url) / "checkpoints").glob("*0"))] == [
        "20",
        "30",
    ]


def test_an_unreadable_list_of_missing_files_says_what_to_do(intact):
    folder = locate(intact).folder
    (Path(folder) / REMOTE_FILE).write_text("{}")
    with pytest.raises(UnreadableCheckpointError, match="Delete the folder: it is a copy"):
        read_info(folder)
    shutil.rmtree(folder)
    assert locate(intact).step == 30


def test_a_file_that_another_copy_has_is_linked_instead_of_downloaded(store, tmp_path, monkeypatch):
    # OCDBT writes these values as one file or as two, depending on the order of its threads.
    monkeypatch.setattr(remote, "LINKED_BYTES", 100_000)
    states = {step: state_at(step) for step in (1, 2)}
    save_states(tmp_path / "run", states)
    url = copy_to(tmp_path / "run", f"{store.url}/shared")
    copies = []
    for step, expected in states.items():
        info = locate(f"{url}@step={step}")
        assert_same(read_arrays(info, info.leaves), expected)
        (database,) = groups_in(info.folder.parents[1], step).values()
        copies.append(values_of(database))
    assert are_linked(*copies)
