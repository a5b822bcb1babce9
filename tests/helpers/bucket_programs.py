"""The program with a workdir in a bucket, on a machine whose disk is empty at each start."""

import contextlib
import json
import os
import random
import signal
import socket
import time
from pathlib import Path

from clac_jax.reporting.metrics_file import read_rows
from clac_jax.stores.errors import StoreError
from clac_jax.stores.store import StoreOptions, open_store
from helpers.object_stores import misbehaving_store
from helpers.paths import ROOT
from helpers.workdirs import assert_equal_runs

# Saves every second step, so that there is always something to upload.
FLAGS = (
    f"--config={ROOT / 'configs' / 'smoke.py'}",
    "--config.checkpoint.every_n_steps=2",
    "--config.max_epochs=2",
    "--config.graph_encoder.name=composition",
    "--config.use_visual_intramodal_loss=False",
    "--config.use_textual_intramodal_loss=False",
    "--config.input.max_batch_shapes=1",
    "--config.bucket.lease_seconds=1",
)

# What a kill comes soon after: a commit of this start, so that the run makes progress and many of
# them fall into uploads and removals; a few rows; or the start itself ("opening": while it
# recovers what is in the bucket, which takes no training).
MOMENTS = ("commit", "row", "commit", "anywhere")
QUICK_MOMENTS = ("commit", "opening", "row", "opening", "commit")

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


class BucketProgram:
    """Starts `main.py` on a workdir in a bucket, each time with another local folder.

    Args:
        programs: see `WarmPrograms`; one for each process of a run.
        environment: variables of the program.
        store: the running store; None for a workdir on the disk, which is `folder`.
        folder: place of the local folders and the output.
        data_dir: the folder of the data set.
    """

    def __init__(self, programs, environment, store, folder, data_dir):
        self.programs, self.store, self.folder = programs, store, folder
        self.flags = (
            f"--config.dataset.data_dir={data_dir}",
            f"--config.compilation_cache={environment['JAX_COMPILATION_CACHE_DIR']}",
        )
        self.environment = {**environment, **(store.environment if store else {})}
        self.url = f"{store.url}/{folder.name}" if store else str(folder)
        self.starts = 0

    @property
    def scratch(self):
        return self.folder / f"disk{self.starts}"

    @property
    def mirror(self):
        """The local folder of the last start; one that does not exist if it has made none yet."""
        found = [path for path in self.scratch.glob("*") if ".process_" not in path.name]
        return next(iter(found), self.scratch / "none")

    @property
    def log(self):
        return self.folder.with_name(f"{self.folder.name}.log")

    def start(self, *flags, is_new=True):
        """Starts the processes of the run; `is_new`: on an empty disk."""
        self.starts += is_new
        count = len(self.programs)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        where = (
            f"--config.distributed.coordinator_address=127.0.0.1:{port}",
            f"--config.distributed.num_processes={count}",
        )
        running = []
        for index, origin in enumerate(self.programs):
            place = (*where, f"--config.distributed.process_id={index}") if count > 1 else ()
            arguments = [
                *FLAGS,
                f"--workdir={self.url}",
                f"--config.bucket.scratch={self.scratch}",
                *self.flags,
                *flags,
                *place,
            ]
            with open(f"{self.log}{index}", "a", encoding="utf-8") as log:
                running.append(origin.start(arguments, self.environment, log, log))
        return running

    def finish(self, *flags, is_new=True, seconds=900):
        """Runs to the end; the exit codes."""
        running = self.start(*flags, is_new=is_new)
        try:
            return [process.wait(seconds) for process in running]
        finally:
            for process in running:
                process.kill()

    def kill_at_random(self, rng, kills, moments=MOMENTS):
        """Kills the run at random instants, each time on an empty disk.

        Args:
            rng: draws the instants.
            kills: number of kills.
            moments: names of `MOMENTS`, one for each start in turn.

        Returns:
            The number of kills; fewer if the run has ended.
        """
        for number in range(kills):
            before = self.newest()
            running = self.start()
            when = moments[number % len(moments)]
            if when == "commit":
                self.until(lambda before=before: self.newest() != before, running, pause=0.05)
            elif when == "row":
                self.until(lambda: self.count_rows() > 0, running)
                rows = self.count_rows() + rng.randrange(4)
                self.until(lambda rows=rows: self.count_rows() >= rows, running)
            time.sleep(rng.random() * {"anywhere": 4, "opening": 0.8}.get(when, 0.4))
            ended = [process.poll() for process in running]
            for process in running:
                process.send_signal(signal.SIGKILL)
                process.wait()
            if ended[0] is not None:
                assert ended[0] == 0, self.output()
                return number
        return kills

    def newest(self):
        """The newest step in the ledger; None if there is none."""
        with contextlib.suppress(StoreError):
            return max(map(int, self.ledger()["checkpoints"]), default=None)
        return None

    def count_rows(self):
        with contextlib.suppress(Exception):  # it is being written
            return len(read_rows(self.mirror / "metrics.jsonl"))
        return 0

    def until(self, condition, running, seconds=240, pause=0.005):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition():
                return True
            if any(process.poll() is not None for process in running):
                return False
            time.sleep(pause)
        raise TimeoutError

    def output(self, index=0):
        return Path(f"{self.log}{index}").read_text(encoding="utf-8")

    def ledger(self):
        with self.store.activated():
            store = open_store(self.url, StoreOptions(patience_seconds=20))
            return json.loads(store.get("run.ledger.json").data)

    def download(self):
        """The bucket's folder as a local one."""
        target = self.folder / "downloaded"
        with self.store.activated():
            store = open_store(self.url, StoreOptions(patience_seconds=20))
            for listed in store.list():
                path = target / listed.name
                path.parent.mkdir(parents=True, exist_ok=True)
                store.download(listed.name, path)
        return target


def check_bucket_kills(program, undisturbed, kills, moments=MOMENTS):
    """Kills a run, lets it finish and compares; returns the number of kills."""
    killed = program.kill_at_random(random.Random(kills), kills, moments)
    resumed = program.output().count("resumed from its checkpoint")
    assert resumed >= killed // 4, "hardly any start has found a checkpoint"
    assert set(program.finish()) == {0}, program.output()
    downloaded = program.download()
    assert_equal_runs(downloaded, undisturbed)
    assert files_of_run(downloaded) - {"restore_report.json"} == files_of_run(undisturbed)
    return killed


def store_with_faults():
    """A server on which a fifth of the requests that write fail in one way or another."""
    return misbehaving_store(7, faults=FAULTS, listing_lag_requests=20)


def files_of_run(workdir):
    """Names of the files of a workdir, without random parts of names."""
    names = set()
    for path in Path(workdir).rglob("*"):
        name = path.relative_to(workdir).as_posix()
        if path.is_file() and not name.startswith((".", "commits/", "run.ledger.json")):
            folder, _, last = name.rpartition("/")
            if len(last) == 32 and folder.endswith(("/d", "/nodes", "/shards")):
                last = "*"
            if folder == "tensorboard":
                last = "*"
            names.add(os.path.join(folder, last))
    return names
