"""A run with its workdir in a bucket: killed, on an empty disk each time, its bits are the same."""

import random
import signal
import time

import pytest
from helpers.bucket_programs import BucketProgram, files_of_run
from helpers.object_stores import gcs_store, misbehaving_store, moto_store
from helpers.workdirs import assert_equal_runs

from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.reporting.metrics_file import read_rows

FAULTS = {
    "unavailable": 0.02,
    "reset": 0.02,
    "torn_upload": 0.03,
    "torn_download": 0.03,
    "lost_answer": 0.03,
    "answered_twice": 0.03,
    "false_conflict": 0.03,
    "delayed_write": 0.03,
}
STORES = {
    "s3": moto_store,
    "gcs": gcs_store,
    "misbehaving": lambda: misbehaving_store(7, faults=FAULTS, listing_lag_requests=20),
}


@pytest.fixture(scope="module")
def common_flags(data_dir):
    import os

    return (
        f"--config.dataset.data_dir={data_dir}",
        f"--config.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
    )


@pytest.fixture(scope="module")
def undisturbed(programs, environment, common_flags, tmp_path_factory):
    """The workdir of a run on the local disk."""
    workdir = tmp_path_factory.mktemp("run") / "undisturbed"
    run = BucketProgram(programs[:1], environment(), None, workdir, common_flags)
    assert run.finish() == [0], run.output()
    return workdir


@pytest.fixture
def program(programs, environment, common_flags, tmp_path):
    """(store, processes=1) -> the program on that store."""

    def build(store, processes=1):
        origins = programs[:1] if processes == 1 else programs[:2]
        return BucketProgram(origins, environment(), store, tmp_path / "run", common_flags)

    return build


def check_kills(program, undisturbed, kills):
    """Kills a run, lets it finish and compares; returns the number of kills."""
    killed = program.kill_at_random(random.Random(kills), kills)
    resumed = program.output().count("resumed from its checkpoint")
    assert resumed >= killed // 4, "hardly any start has found a checkpoint"
    assert set(program.finish()) == {0}, program.output()
    downloaded = program.download()
    assert_equal_runs(downloaded, undisturbed)
    assert files_of_run(downloaded) - {"restore_report.json"} == files_of_run(undisturbed)
    return killed


def test_killed_on_a_store_that_misbehaves(program, undisturbed):
    with STORES["misbehaving"]() as store:
        killed = check_kills(program(store), undisturbed, 2)
        assert killed == 2
        assert len(store.control()["faults"]) > 4


def test_refused_out_of_reach_and_asked_to_stop(program):
    with misbehaving_store() as store:
        run = program(store)
        running = run.start("--config.max_epochs=100")
        assert run.until(lambda: run.count_rows() >= 3, running)
        second = run.start()
        assert second[0].wait(120) == 2
        assert f"is in use by process {running[0].pid}" in run.output()
        store.control(outage=True)
        run.starts = 1
        assert run.until(lambda: "Training continues" in run.output(), running)
        rows = run.count_rows()
        assert run.until(lambda: run.count_rows() >= rows + 4, running)
        running[0].send_signal(signal.SIGTERM)
        store.control(outage=False)
        assert running[0].wait(120) == EXIT_PREEMPTED
        assert "can be written to again" in run.output()
        ledger = run.ledger()
        assert not ledger["nonce"] and not ledger["finished"]
        last = read_rows(run.mirror / "metrics.jsonl")[-1]["step"]
        assert max(map(int, ledger["checkpoints"])) == last, "all is there before it ends"


KILLS = 50
LONGER = "--config.max_epochs=25"  # it must outlast the kills


@pytest.fixture(scope="module")
def longer(programs, environment, common_flags, tmp_path_factory):
    """(number of processes) -> the workdir of a run on the local disk."""
    made = {}

    def build(processes):
        if processes not in made:
            workdir = tmp_path_factory.mktemp("longer") / "undisturbed"
            run = BucketProgram(programs[:processes], environment(), None, workdir, common_flags)
            assert set(run.finish(LONGER, seconds=600)) == {0}, run.output()
            made[processes] = workdir
        return made[processes]

    return build


@pytest.mark.slow
def test_two_starts_at_the_same_instant_fifty_times(program, undisturbed):
    """One trains, one is refused, and nothing is lost."""
    with STORES["misbehaving"]() as store:
        run = program(store)
        for _ in range(50):
            one, other = run.start(), run.start()
            codes = [one[0].poll(), other[0].poll()]
            while None in codes and 2 not in codes:
                time.sleep(0.01)
                codes = [one[0].poll(), other[0].poll()]
            assert sorted(codes, key=str) in ([2, None], [0, 2]), run.output()
            trains = (one, other)[codes.index(2) - 1][0]
            time.sleep(random.random())
            trains.send_signal(signal.SIGKILL)
            trains.wait()
        assert run.output().count("is in use by") == 50
        assert run.finish() == [0], run.output()
        downloaded = run.download()
        assert_equal_runs(downloaded, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", STORES)
def test_killed_fifty_times(program, longer, name, processes):
    with STORES[name]() as store:
        run = program(store, processes)
        run.flags = (*run.flags, LONGER)
        assert check_kills(run, longer(processes), KILLS) >= KILLS - 10


SHARDED = (
    "--config.parallel=shard_map",
    "--config.sharding.what=everything",
    "--config.sharding.min_elements=64",
)


@pytest.mark.slow
def test_a_sharded_run_of_two_hosts_is_killed(programs, environment, common_flags, tmp_path):
    """Each process saves its part; the hosts share no disk."""
    flags = (*common_flags, *SHARDED)
    workdir = tmp_path / "undisturbed"
    alone = BucketProgram(programs[:2], environment(), None, workdir, flags)
    assert set(alone.finish()) == {0}, alone.output()
    with STORES["misbehaving"]() as store:
        run = BucketProgram(programs[:2], environment(), store, tmp_path / "run", flags)
        check_kills(run, workdir, 3)
        newest = max((run.download() / "checkpoints").iterdir(), key=lambda path: int(path.name))
        parts = sorted(path.name for path in (newest / "state").glob("ocdbt.process_*"))
        assert parts == ["ocdbt.process_0", "ocdbt.process_1"]
