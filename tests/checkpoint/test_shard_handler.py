"""States sharded over devices: saved and restored by shards, with the bits of complete arrays."""

import json
import os
import socket
import subprocess
import sys

import pytest
from helpers.paths import ROOT

from clac_jax.checkpoint import shard_handler

HELPERS = ROOT / "tests" / "helpers"


MB = 1 << 20


def start(name, *arguments):
    return subprocess.Popen(
        [sys.executable, HELPERS / name, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
    )


def results(running, seconds=300):
    """The result that each process prints in its last line."""
    try:
        outputs = [process.communicate(timeout=seconds) for process in running]
    finally:
        for process in running:
            process.kill()
    for process, (_, errors) in zip(running, outputs, strict=True):
        assert process.returncode == 0, errors
    return [json.loads(printed.splitlines()[-1]) for printed, _ in outputs]


@pytest.fixture(scope="module")
def on_eight_devices(tmp_path_factory):
    """The findings of `sharded_states.py` in a process with eight devices."""
    return results([start("sharded_states.py", tmp_path_factory.mktemp("sharded"))])[0]


def test_saved_on_some_devices_it_is_restored_on_any_others(on_eight_devices):
    found = on_eight_devices["restored"]
    assert found.pop("shards on 8") == [8, 1], "an array that cannot be divided has one"
    assert found.pop("shards on 2") == [2, 1]
    assert len(found) == 12 and all(found.values()), found


def test_digests_do_not_depend_on_the_devices(on_eight_devices):
    found = dict(on_eight_devices["digests"])
    assert found.pop("flipped on device 5") == {"5": ["params", "total"]}
    assert {name: len(copies) for name, copies in found.items()} == {
        "everything on 8": 8,
        "everything on 2": 2,
        "optimizer on 4": 4,
        "nothing on 1": 1,
        "pmap on 8": 8,
    }
    assert all(all(copies) for copies in found.values()), found


def test_a_partial_restore_gives_the_numbers_of_one_without_shards(on_eight_devices):
    assert all(on_eight_devices["partly"].values()), on_eight_devices["partly"]


def test_a_fresh_state_is_the_same_in_shards(on_eight_devices):
    assert on_eight_devices["fresh"] == {"same": True, "sharded": True, "no weak types": True}


def test_a_damaged_shard_is_named_and_the_checkpoint_before_it_used(on_eight_devices):
    found = on_eight_devices["damaged"]
    assert found["tested"] == [3, 2]
    assert found["same"] == [True, True, True]
    assert found["step"] == 2 and found["named"]


def assert_bounded(found):
    """Asserts that neither devices nor hosts hold more than their share and one shard."""
    assert found["right"] and found["step"] == 1
    assert found["device in save"] <= found["share of a device"] + found["shard"] + 1000
    assert found["device in restore"] <= found["share of a device"] + found["shard"] + 1000
    # Libraries that are loaded by the first save or restore take memory as well.
    limit = found["share"] + found["shard"] + 64 * MB
    assert found["save"] <= limit
    assert found["restore"] <= limit + shard_handler.READ_AHEAD_BYTES


def test_one_process_with_eight_devices_holds_one_copy_of_the_state(tmp_path):
    (found,) = results([start("memory_of_shards.py", tmp_path, 0, 1, 8, 0, 256)])
    assert_bounded(found)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_no_process_holds_more_than_its_share_and_one_shard(tmp_path, processes):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = processes, 2, port, 512
    running = [
        start("memory_of_shards.py", tmp_path / "run", index, *arguments)
        for index in range(processes)
    ]
    for found in results(running):
        assert found["share"] == 512 * MB // processes
        assert_bounded(found)
