"""`clac-jax prove` on runs that were killed, resumed, pruned, in a bucket or on two hosts."""

import json
import signal
import subprocess
import sys

import pytest
from helpers.forged import change_line
from helpers.object_stores import moto_store
from helpers.paths import ROOT
from helpers.several_processes import ended, log_of

from clac_jax.chain.record import read_chain

pytestmark = pytest.mark.slow

FEW = ("--config.graph_encoder.name=composition", "--config.dataset.max_examples=16")


@pytest.fixture(scope="module")
def prove(environment):
    """(*arguments, devices=1, env=None) -> the CompletedProcess of `clac-jax prove ARGUMENTS`."""

    def start(*arguments, devices=1, env=None):
        return subprocess.run(
            [sys.executable, "-m", "clac_jax", "prove", *map(str, arguments)],
            cwd=ROOT,
            env=environment(devices) | (env or {}),
            capture_output=True,
            text=True,
            timeout=400,
        )

    return start


def test_a_run_that_was_killed_resumed_and_pruned_is_proven_signed_and_tampered_with(
    prove, arguments, environment, run, tmp_path
):
    workdir = tmp_path / "run"
    flags = (*FEW, "--config.checkpoint.every_n_steps=1", "--config.checkpoint.save_top_k=1")
    for point, count in (("all files written", 3), ("committed", 2), ("marked as unfinished", 1)):
        killed = [sys.executable, str(ROOT / "tests" / "helpers" / "killed_main.py")]
        ended_by = subprocess.run(
            [*killed, point, str(count), *arguments(workdir, *flags, "--config.max_epochs=2")],
            env=environment(),
            cwd=ROOT,
            timeout=240,
            check=False,
        )
        assert ended_by.returncode == -signal.SIGKILL
    done = run(workdir, *flags, "--config.max_epochs=3", "--config.learning_rate=1e-4")
    assert done.returncode == 0, done.stderr
    entries = read_chain(workdir / "chain.jsonl")
    assert [entry.step for entry in entries] == [*range(1, 13), 12]
    kept = {path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdigit()}
    assert len(kept) <= 2  # the chain has records of all

    assert prove("--new-key", tmp_path / "key").returncode == 0
    flags = ("--segments", 3, "--steps", 0, "--keep", "--sign", tmp_path / "key")
    proof = prove(workdir, *flags)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "chain     13 records, steps 1 to 12, ended" in proof.stdout
    assert "recomputed: equal\nproven.\n" in proof.stdout
    short = ("--segments", 0, "--public-key", tmp_path / "key.pub", "--json")
    facts = json.loads(prove(workdir, *short).stdout)
    assert facts["proven"] and facts["signature"]["step"] == 12

    change_line(workdir / "metrics.jsonl", 0, loss=0.5)
    again = prove(workdir, "--segments", 0)
    assert again.returncode == 1
    assert "FOUND     metrics.jsonl, line 1 (" in again.stdout
    assert again.stdout.endswith(f"NOT PROVEN: {workdir} is not as it was recorded.\n")


def test_a_run_in_a_bucket_is_proven(prove, data_dir, environment, tmp_path):
    with moto_store() as store:
        url, env = f"{store.url}/run", store.for_programs()
        env = {name: env[name] for name in store.environment} | {"CLAC_JAX_CACHE": str(tmp_path)}
        command = [sys.executable, "-m", "clac_jax", "train"]
        command += [f"--config={ROOT / 'configs' / 'smoke.py'}", f"--workdir={url}", *FEW]
        command += [f"--config.dataset.data_dir={data_dir}", "--config.checkpoint.every_n_steps=2"]
        for epochs in (1, 2):  # on an empty disk each time
            env["CLAC_JAX_CACHE"] = str(tmp_path / f"disk{epochs}")
            done = subprocess.run(
                [*command, f"--config.max_epochs={epochs}"],
                cwd=ROOT,
                env=environment() | env,
                capture_output=True,
                text=True,
                timeout=240,
                check=False,
            )
            assert done.returncode == 0, done.stderr
        assert prove("--new-key", tmp_path / "key").returncode == 0
        proof = prove(url, "--sign", tmp_path / "key", "--keep", env=env)
        assert proof.returncode == 0, proof.stdout + proof.stderr
        assert "steps 2 to 8, ended" in proof.stdout
        env["CLAC_JAX_CACHE"] = str(tmp_path / "another")
        again = prove(url, "--segments", 0, "--public-key", tmp_path / "key.pub", env=env)
        assert again.returncode == 0, again.stdout + again.stderr
        assert "of the last record (up to step 8): valid" in again.stdout


@pytest.mark.parametrize(
    "sharded", [(), ("--config.parallel=shard_map", "--config.sharding.what=everything",
                     "--config.sharding.min_elements=64")],
)  # fmt: skip
def test_a_run_of_two_processes_is_proven(prove, begin_processes, tmp_path, sharded):
    workdir = tmp_path / "run"
    flags = ("--config.max_epochs=1", "--config.dataset.max_examples=16", *sharded)
    assert ended(begin_processes(workdir, *flags, devices=1)) == [0, 0], log_of(workdir, 0)
    proof = prove(workdir, "--steps", 0, devices=2)
    assert proof.returncode == 0, proof.stdout + proof.stderr
    assert "steps     1-4 recomputed: equal\nproven.\n" in proof.stdout
