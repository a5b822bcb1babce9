"""A run with its workdir in a bucket: killed, on an empty disk each time, its bits are the same."""

import contextlib
import os
import random
import re
import signal
import time

import pytest
from helpers.bucket_programs import BucketProgram, check_bucket_kills, store_with_faults
from helpers.object_stores import gcs_store, misbehaving_store, moto_store
from helpers.workdirs import assert_equal_runs

from clac_jax.distributed.preemption import EXIT_PREEMPTED
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.stores.errors import StoreError

STORES = {"s3": moto_store, "gcs": gcs_store, "misbehaving": store_with_faults}


@pytest.fixture
def program(programs, environment, data_dir, tmp_path):
    """(store, processes=1) -> the program on that store."""

    def build(store, processes=1):
        origins = programs[:processes]
        return BucketProgram(origins, environment(), store, tmp_path / "run", data_dir)

    return build


@pytest.mark.slow
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


@pytest.mark.slow
def test_out_of_reach_at_the_start_and_asked_to_stop_there(program):
    with misbehaving_store(outage=True) as store:
        run = program(store)
        assert run.finish() == [1], "to be tried again, by `clac-jax run` for example"
        waits = (
            r"warning: s3://bucket/run does not answer \(.*\)\. Trying again until \d\d:\d\d:\d\d\."
        )
        assert len(re.findall(waits, run.output())) == 1
        store.control(outage=False, faults={"slow": 1.0}, slow_seconds=0.3)
        (running,) = run.start("--config.bucket.lease_seconds=600")
        assert run.until(lambda: has_ledger(run), [running])
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == EXIT_PREEMPTED
        assert not run.ledger()["nonce"], "the next start would wait for ten minutes"
        store.control(faults={})
        assert run.finish() == [0], run.output()


def has_ledger(run):
    with contextlib.suppress(StoreError):
        return bool(run.ledger()["nonce"])
    return False


@pytest.mark.slow
def test_a_process_is_lost_while_the_store_is_out_of_reach(program, on_disk):
    with misbehaving_store() as store:
        run = program(store, processes=2)
        running = run.start("--config.bucket.patience_minutes=0.1")
        assert run.until(lambda: run.newest() is not None, running)
        store.control(outage=True)
        rows = run.count_rows()
        assert run.until(lambda: run.count_rows() >= rows + 1, running)
        running[1].send_signal(signal.SIGKILL)
        assert running[0].wait(240) == 1
        said = run.output()
        assert "The newest part of this run is not in s3://bucket/run" in said
        assert f"It is in {run.mirror}" in said
        store.control(outage=False)
        assert run.finish(is_new=False) == [0, 0], run.output()
        assert_equal_runs(run.download(), on_disk(2))


# `OUTAGE_SECONDS=600 make test-slow` has the store down for ten minutes.
OUTAGE_SECONDS = float(os.environ.get("OUTAGE_SECONDS", "30"))


@pytest.mark.slow
def test_trains_through_an_outage(program):
    """No step waits for the store; the run says once that it is down, and once that it is back."""
    with misbehaving_store() as store:
        run = program(store)
        running = run.start("--config.max_epochs=100000")
        assert run.until(lambda: run.newest() is not None, running, pause=0.05)
        before = run.newest()
        store.control(outage=True)
        assert run.until(lambda: "Training continues" in run.output(), running, pause=0.05)
        for _ in range(4):
            rows = run.count_rows()
            time.sleep(OUTAGE_SECONDS / 4)
            assert run.count_rows() > rows, "training waits for the store"
        store.control(outage=False)
        assert run.until(lambda: (run.newest() or 0) > before, running, pause=0.05)
        running[0].send_signal(signal.SIGTERM)
        assert running[0].wait(120) == EXIT_PREEMPTED
        assert run.output().count("Training continues") == 1
        assert run.output().count("can be written to again") == 1
        rows = read_rows(run.download() / "metrics.jsonl")
        steps = [row["step"] for row in rows if row["split"] == "train"]
        assert steps == list(range(1, len(steps) + 1)), "each step, once"
        assert max(map(int, run.ledger()["checkpoints"])) == len(steps), "all is uploaded"


KILLS = 50
LONGER = "--config.max_epochs=25"  # it must outlast the kills


@pytest.fixture(scope="module")
def on_disk(programs, environment, data_dir, tmp_path_factory):
    """(number of processes, *flags) -> the workdir of an undisturbed run on the local disk."""
    made = {}

    def build(processes, *flags):
        if (processes, *flags) not in made:
            workdir = tmp_path_factory.mktemp("disk") / "undisturbed"
            run = BucketProgram(programs[:processes], environment(), None, workdir, data_dir)
            assert set(run.finish(*flags)) == {0}, run.output()
            made[processes, *flags] = workdir
        return made[processes, *flags]

    return build


@pytest.mark.slow
def test_stopped_for_now_by_its_config_and_continued_on_an_empty_disk(program, on_disk):
    """Between two saves, and at the end of an epoch."""
    with STORES["misbehaving"]() as store:
        run = program(store)
        for flag, step in (("stop_at_step=5", 5), ("stop_at_epoch=1", 8)):
            assert run.finish(f"--config.{flag}") == [0], run.output()
            assert f"step {step}, by {flag}" in run.output()
            ledger = run.ledger()
            assert max(map(int, ledger["checkpoints"])) == step and not ledger["nonce"]
        assert run.finish() == [0], run.output()
        assert_equal_runs(run.download(), on_disk(1))


@pytest.mark.slow
def test_suspended_while_another_machine_continues_its_run(program, on_disk):
    with STORES["misbehaving"]() as store:
        run = program(store)
        (suspended,) = run.start()
        assert run.until(lambda: run.newest() is not None, [suspended], pause=0.05)
        suspended.send_signal(signal.SIGSTOP)
        assert run.finish() == [0], run.output()
        suspended.send_signal(signal.SIGCONT)
        assert suspended.wait(120) == 2
        assert "was taken by process" in run.output()
        assert_equal_runs(run.download(), on_disk(1))


@pytest.mark.slow
def test_two_starts_at_the_same_instant_fifty_times(program, on_disk):
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
        assert_equal_runs(run.download(), on_disk(1))


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("name", STORES)
def test_killed_fifty_times(program, on_disk, name, processes):
    with STORES[name]() as store:
        run = program(store, processes)
        run.flags = (*run.flags, LONGER)
        killed = check_bucket_kills(run, on_disk(processes, LONGER), KILLS)
        assert killed >= KILLS - 10


SHARDED = (
    "--config.parallel=shard_map",
    "--config.sharding.what=everything",
    "--config.sharding.min_elements=64",
)


@pytest.mark.slow
def test_a_sharded_run_of_two_hosts_is_killed(program, on_disk):
    """Each process saves its part; the hosts share no disk."""
    with STORES["misbehaving"]() as store:
        run = program(store, processes=2)
        run.flags = (*run.flags, *SHARDED)
        check_bucket_kills(run, on_disk(2, *SHARDED), 3)
        newest = max((run.download() / "checkpoints").iterdir(), key=lambda path: int(path.name))
        parts = sorted(path.name for path in (newest / "state").glob("ocdbt.process_*"))
        assert parts == ["ocdbt.process_0", "ocdbt.process_1"]
