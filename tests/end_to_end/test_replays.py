"""`clac-jax replay` and `bisect` on runs of every kind, as users start them."""

import json
import subprocess
import sys

import pytest
from helpers.object_stores import moto_store
from helpers.paths import ROOT

pytestmark = pytest.mark.slow

FEW = ("--config.max_epochs=1", "--config.graph_encoder.name=composition")


@pytest.fixture(scope="module")
def command(environment):
    """(*arguments, devices=1, env=...) -> the CompletedProcess of `clac-jax ARGUMENTS`."""

    def start(*arguments, env=None):
        return subprocess.run(
            [sys.executable, "-m", "clac_jax", *map(str, arguments)],
            cwd=ROOT,
            env=environment() | (env or {}),
            capture_output=True,
            text=True,
            timeout=600,
        )

    return start


@pytest.mark.parametrize(
    ("devices", "flags"),
    [
        (2, ()),
        (2, ("--config.parallel=shard_map", "--config.sharding.what=everything",
             "--config.sharding.min_elements=64")),
        (1, ("--config.gradient_cache_chunks=2", "--config.accumulate_steps=2",
             "--config.graph_encoder.name=painn")),
        (1, ("--config.task=property", "--config.property.name=band gap",
             "--config.frozen=()", "--config.optimizer.learning_rate_factors=()")),
        (1, ("--config.lm_weight=0.5", "--config.loss.name=siglip",
             "--config.augment.mask_prob=0.15")),
    ],
)  # fmt: skip
def test_the_bits_of_every_kind_of_run_are_computed_again(run, command, tmp_path, devices, flags):
    workdir = tmp_path / "run"
    done = run(workdir, *FEW, *flags, devices=devices)
    assert done.returncode == 0, done.stderr
    # The program divides the CPU as the run did.
    every = command("replay", workdir, "--every", "--from", 2, "--json")
    assert every.returncode == 0, every.stdout + every.stderr
    checked = json.loads(every.stdout)
    assert checked["equal"] == checked["compared"] == checked["last"] - 1 > 2
    step = command("replay", workdir, "--step", 3, "--json", "--examples")
    assert step.returncode == 0, step.stderr
    facts = json.loads(step.stdout)
    assert facts["equal"] and len(facts["examples"]) in (4, 8)
    losses = [example["terms"]["loss"] for example in facts["examples"]]
    expected = facts["metrics"]["loss"] - 0.5 * facts["metrics"].get("lm_loss", 0.0)
    assert sum(losses) / len(losses) == pytest.approx(expected, rel=1e-4)


def test_a_different_number_of_devices_is_reported_and_is_not_a_fault(run, command, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for workdir, devices in ((one, 1), (two, 2)):
        assert run(workdir, *FEW, devices=devices).returncode == 0
    found = command("bisect", one, two)
    if found.returncode == 0:  # sums over two devices may round alike
        pytest.skip("both have the same bits")
    assert found.returncode == 1, found.stderr
    assert "devices: count 1, kind cpu" in found.stdout
    assert "which is to be expected here: it was done on 1 device, and here on 2" in found.stdout


def test_a_run_in_a_bucket_is_replayed(command, data_dir, tmp_path):
    with moto_store() as store:
        run, env = f"{store.url}/run", store.for_programs()
        env = {name: env[name] for name in store.environment} | {"CLAC_JAX_CACHE": str(tmp_path)}
        flags = (*FEW, f"--config.dataset.data_dir={data_dir}", "--config.dataset.max_examples=16")
        config = ROOT / "configs" / "smoke.py"
        done = command("train", f"--config={config}", f"--workdir={run}", *flags, env=env)
        assert done.returncode == 0, done.stderr
        every = command("replay", run, "--every", env=env)
        assert every.returncode == 0, every.stderr
        assert "4 of 4 equal to the journal" in every.stdout
        blamed = command("blame", run, "--example", 3, "--json", env=env)
        assert len(json.loads(blamed.stdout)["uses"]) == 1
