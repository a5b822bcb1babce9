"""The programs on a run that was copied to a bucket file by file."""

import json
import os
import signal
import subprocess
import sys
import time

import boto3
import numpy as np
import orbax.checkpoint as ocp
import pytest
import tensorstore as ts
from helpers.bucket_copies import flip_bit, names_in
from helpers.crystals import NACL
from helpers.object_stores import gcs_store, moto_store
from helpers.paths import ROOT
from helpers.user_tables import row, write
from helpers.workdirs import assert_same_arrays, last_state

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.locate import locate
from clac_jax.stores.store import open_store

pytestmark = pytest.mark.slow

TRAIN = (
    f"--config={ROOT / 'configs' / 'smoke.py'}",
    "--config.logging.tensorboard=False",
    "--config.checkpoint.save_top_k=-1",
)


class Programs:
    """Starts `main.py` and `clac-jax` with an environment, in an empty folder.

    Args:
        environment: variables of the programs.
        folder: an empty folder.
    """

    def __init__(self, environment, folder):
        self.environment = environment | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        self.folder = folder

    def command(self, *arguments):
        """The output of `clac-jax ARGUMENTS`, which must succeed."""
        code, out, err = self.outcome(*arguments)
        assert code == 0, err
        return out

    def outcome(self, *arguments):
        """Exit code, standard output and standard error of `clac-jax ARGUMENTS`."""
        with self.started(*arguments) as process:
            out, err = process.communicate(timeout=300)
        return process.returncode, out, err

    def started(self, *arguments):
        return subprocess.Popen(
            [sys.executable, "-m", "clac_jax", *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, *flags):
        return self.command("train", *TRAIN, f"--config.dataset.data_dir={ROOT / 'data'}", *flags)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("programs")


@pytest.fixture(scope="module")
def workdir(folder):
    """A run on a disk."""
    cache = {"CLAC_JAX_CACHE": str(folder / "cache")}
    Programs(os.environ | cache, folder).train(f"--workdir={folder / 'exp'}")
    return folder / "exp"


@pytest.fixture(scope="module")
def store(folder):
    with moto_store() as running, running.activated():
        os.environ["CLAC_JAX_CACHE"] = str(folder / "cache")  # put back by `activated`
        yield running


@pytest.fixture(scope="module")
def programs(store, folder):
    place = folder / "empty"
    place.mkdir()
    return Programs(os.environ | store.for_programs(), place)


@pytest.fixture
def url(store, workdir, request):
    """The run in the bucket, copied file by file."""
    s3 = boto3.client("s3")
    name = request.node.name
    for path in sorted(workdir.rglob("*")):
        if path.is_file():
            key = f"{name}/{path.relative_to(workdir)}"
            s3.upload_file(str(path), store.url.removeprefix("s3://"), key)
    return f"{store.url}/{name}"


def test_the_commands_of_checkpoints(programs, url, workdir):
    local = json.loads(programs.command("ckpt", "ls", str(workdir), "--json"))
    # Where checkpoints share files on a disk, each costs all of its bytes in a bucket.
    stored = [row | {"own_bytes": row["bytes"]} for row in local]
    assert json.loads(programs.command("ckpt", "ls", url, "--json")) == stored
    shown = json.loads(programs.command("ckpt", "show", f"{url}@best", "--json"))
    assert shown["folder"].startswith(f"{url}/checkpoints/")
    difference = programs.command("ckpt", "diff", url, str(workdir))
    assert difference.startswith("config") is False and "arrays are equal bit for bit" in difference
    assert "largest change" not in difference
    assert programs.command("ckpt", "verify", url).count(": intact") == 2
    programs.command("ckpt", "export", f"{url}@best", f"{url}-model")
    assert "model.safetensors" in names_in(f"{url}-model")
    assert programs.command("ckpt", "rm", url, "8") == f"removed {url}/checkpoints/8\n"
    assert programs.command("ckpt", "verify", url) == f"{url}/checkpoints/16: intact\n"
    assert list(programs.folder.iterdir()) == [], "no program made a folder called s3:"


def test_damage_in_the_bucket(programs, url):
    data = next(name for name in names_in(url) if "/16/state/ocdbt.process_0/d/" in name)
    assert programs.command("ckpt", "verify", url).count(": intact") == 2
    flip_bit(url, data)
    code, out, _ = programs.outcome("ckpt", "verify", url)
    assert code == 1 and f"DAMAGED: {url}/{data} does not hold what was written" in out
    open_store(url).delete("checkpoints/8/files.json")
    code, _, err = programs.outcome("ckpt", "show", f"{url}/checkpoints/8")
    assert code == 2 and f"{url}/checkpoints/8 does not exist (there are 16)" in err


def test_a_run_that_starts_from_it(programs, url, workdir, store, folder):
    table = write(folder / "table.parquet", [row(k) for k in range(40)])
    open_store(store.url).put("table.parquet", table)
    for name, source in (("stored", f"{url}@best"), ("local", f"{workdir}@best")):
        where = f"{store.url}/table.parquet" if name == "stored" else str(table)
        out = programs.train(
            f"--workdir={folder / name}",
            f"--config.resume_from={source}",
            "--config.dataset.name=gpt_narratives",
            f"--config.dataset.path={where}",
            f"--config.dataset.data_dir={folder / 'data'}",
            "--config.restore.parts=('params','batch_stats')",
            "--config.max_epochs=1",
        )
        shown = source.partition("@")[0]
        assert f"starts from another run's checkpoint {shown}/checkpoints/" in out
    step, state = last_state(folder / "stored")
    assert step == last_state(folder / "local")[0] > 0
    assert_same_arrays(state, last_state(folder / "local")[1])


def test_evaluate_and_compare(programs, url):
    data = f"--data_dir={ROOT / 'data'}"
    out = programs.command("evaluate", url, "--tasks=retrieval", "--resamples=10", data)
    assert f"written     {url}/eval/16: eval.json, report.html, ranks.parquet" in out
    arguments = ("--tasks=retrieval", "--resamples=10", data, f"--out={url}-eval/best")
    programs.command("evaluate", f"{url}@step=8", *arguments)
    out = programs.command("compare", url, f"{url}-eval/best", f"--html={url}-eval/page.html")
    assert "text to crystal top1" in out
    assert open_store(f"{url}-eval").get("page.html").data.startswith(b"<!")


def test_an_index_killed_while_it_is_uploaded(programs, url, folder):
    crystals = write(folder / "crystals.jsonl", [row(k) for k in range(12)])
    index = f"{url}-index"
    command = ("embed", f"{url}@best", str(crystals), "--out", index, "--shard_rows", "2")
    kills = 0
    for wanted in (1, 4, 8, 12):
        with programs.started(*command) as process:
            while process.poll() is None:
                if len(names_in(index)) >= wanted:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.002)
            process.communicate()
        if process.returncode == 0:
            break
        kills += 1
        if "index.json" not in names_in(index):
            code, _, err = programs.outcome("search", index, "a salt")
            assert code == 2 and f"{index} is not an index" in err
    assert kills
    programs.command(*command)
    assert f"{index}: intact, 12 crystals" in programs.command("index", "check", index)
    hits = json.loads(programs.command("search", index, "a salt", "-k2", "--format=json"))
    assert hits["index"]["path"] == index and len(hits["hits"]) == 2


def test_other_programs_open_it(store, url, workdir, tmp_path):
    expected = ocp.utils.to_flat_dict(
        ocp.PyTreeCheckpointer().restore(workdir.resolve() / "checkpoints/16/state")
    )
    base = {
        "driver": "s3",
        "bucket": store.url.removeprefix("s3://"),
        "path": f"{url.rpartition('/')[2]}/checkpoints/16/state/",
        "endpoint": store.environment["AWS_ENDPOINT_URL"],
        "aws_region": "us-east-1",
    }
    assert_equal_in_store(base, expected)
    s3 = open_store(url)
    for name in names_in(url):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        s3.download(name, tmp_path / name)
    step, state = last_state(tmp_path)
    assert step == 16
    assert_same_arrays(state, last_state(workdir)[1])


def assert_equal_in_store(base, expected):
    """Compares arrays that TensorStore reads from a bucket."""
    for path, array in expected.items():
        place = {"driver": "ocdbt", "base": base, "path": f"{'.'.join(path)}/"}
        opened = ts.open({"driver": "zarr", "kvstore": place}, open=True, read=True).result()
        np.testing.assert_array_equal(opened.read().result(), array, err_msg=str(path))


def test_on_google_cloud_storage(workdir, folder):
    place = folder / "gcs"
    place.mkdir()
    with gcs_store() as running, running.activated() as bucket:
        os.environ["CLAC_JAX_CACHE"] = str(place / "cache")
        store = open_store(f"{bucket}/exp")
        for path in workdir.rglob("*"):
            if path.is_file():
                store.put(path.relative_to(workdir).as_posix(), path)
        programs = Programs(os.environ | running.for_programs(), place)
        assert programs.command("ckpt", "verify", store.url).count(": intact") == 2
        info = locate(f"{store.url}@step=16")
        arrays = read_arrays(info, info.leaves)
        original = locate(f"{workdir}@step=16")
        for path, array in read_arrays(original, original.leaves).items():
            np.testing.assert_array_equal(arrays[path], array, err_msg=path)
        tree = ocp.PyTreeCheckpointer().restore(workdir.resolve() / "checkpoints/16/state")
        base = {"driver": "gcs", "bucket": "bucket", "path": "exp/checkpoints/16/state/"}
        assert_equal_in_store(base, ocp.utils.to_flat_dict(tree))
        programs.command("publish", f"{store.url}@best", f"{bucket}/model")
        (place / "nacl.cif").write_text(NACL)
        crystals = ("--crystals", "nacl.cif")
        assert "cosine" in programs.command("similarity", f"{bucket}/model", "a salt", *crystals)
