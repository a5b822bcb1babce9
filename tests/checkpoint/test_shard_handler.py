"""States sharded over devices: saved and restored by shards, with the bits of complete arrays."""

import json
import os
import subprocess
import sys

import pytest
from helpers.paths import ROOT

HELPERS = ROOT / "tests" / "helpers"


def run_helper(name, *arguments, timeout=300):
    done = subprocess.run(
        [sys.executable, HELPERS / name, *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    """What `sharded_states.py` has found in a process with eight devices."""
    return run_helper("sharded_states.py", tmp_path_factory.mktemp("sharded"))


def test_saved_on_some_devices_it_is_restored_on_any_others(on_eight_devices):
    found = on_eight_devices["restored"]
    assert found.pop("shards on 8") == [8, 1], "an array that cannot be divided has one"
    assert found.pop("shards on 2") == [2, 1]
    assert len(found) == 12 and all(found.values()), found


def test_a_partial_restore_gives_the_numbers_of_one_without_shards(on_eight_devices):
    assert all(on_eight_devices["partly"].values()), on_eight_devices["partly"]


def test_a_fresh_state_is_the_same_in_shards(on_eight_devices):
    assert on_eight_devices["fresh"] == {"same": True, "sharded": True, "no weak types": True}


def test_a_damaged_shard_is_named_and_the_checkpoint_before_it_used(on_eight_devices):
    found = on_eight_devices["damaged"]
    assert found["tested"] == [3, 2]
    assert found["same"] == [True, True, True]
    assert found["step"] == 2 and found["named"]
