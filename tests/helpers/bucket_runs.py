"""Runs in a bucket without training: folders that look like checkpoints, and their uploads."""

import os
import random
import shutil
import zlib

from etils import epath

from clac_jax.bucket.ahead import continues_without_ledger
from clac_jax.bucket.lease import Clock, acquire, read_ledger
from clac_jax.bucket.mirror import fill, needed_objects
from clac_jax.bucket.owners import claim
from clac_jax.bucket.recovery import recover
from clac_jax.bucket.uploader import Uploader
from clac_jax.checkpoint.files import check_files, write_manifest


class Killed(BaseException):
    """The process is gone."""


class SleepingClock(Clock):
    """A clock on which a sleep takes no time, so that leases run out immediately."""

    def __init__(self):
        self.time = 0.0

    def now(self):
        return self.time

    def sleep(self, seconds):
        self.time += seconds


# The mirror at each upload of a run: step -> tag of the content. Step 16 is saved again after its
# validation; two saves come between two uploads; in the end the last checkpoint is removed
# (checkpoint.save_last=False).
HISTORY = (
    {8: "a"},
    {8: "a", 16: "b"},
    {8: "a", 16: "c"},
    {16: "c", 24: "d", 32: "e"},
    {16: "c", 24: "d"},
)


# Files that checkpoints of these tags have in common, as arrays that do not change.
_FROZEN = {"state/ocdbt.process_f/d/5ba6ed00c0ffee00c0ffee00c0ffee00": "frozen arrays " * 50}
SHARED = dict.fromkeys("bcd", _FROZEN)


class Templates:
    """Checkpoints by step and tag, written once and copied by hard links."""

    def __init__(self, folder):
        self.folder = folder

    def checkpoint(self, step, tag):
        folder = self.folder / f"{step}-{tag}"
        if not folder.exists():
            name = f"{random.Random(f'{step} {tag}').getrandbits(128):032x}"
            files = {
                f"state/d/{name}": f"arrays of {step}{tag}" * 10,
                **SHARED.get(tag, {}),
                "state/manifest.ocdbt": f"tree of {step}{tag}",
                "run/metadata": f'{{"step": {step}, "tag": "{tag}"}}',
                "commit_success.txt": "committed",
            }
            for file, content in files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_text(content)
            write_manifest(epath.Path(folder))
        return folder

    def put(self, mirror, steps, rows):
        """Makes the checkpoints of a mirror those of `steps`, and its metrics that many rows."""
        wanted = {str(step): tag for step, tag in steps.items()}
        place = mirror / "checkpoints"
        place.mkdir(parents=True, exist_ok=True)
        for path in place.iterdir():
            if wanted.get(path.name) != tag_of(path):
                shutil.rmtree(path)
        for step, tag in steps.items():
            if not (place / str(step)).exists():
                shutil.copytree(
                    self.checkpoint(step, tag), place / str(step), copy_function=os.link
                )
        (mirror / "metrics.jsonl").write_text("".join(f"row {k}\n" for k in range(rows)))
        (mirror / "config.json").write_text("{}")


def tag_of(folder):
    """The tag of an intact checkpoint."""
    check_files(epath.Path(folder), every_byte=True)
    return (folder / "run" / "metadata").read_text().split('"')[-2]


def tags_in(mirror):
    """Step -> tag of all checkpoints in a mirror, all of which must be intact."""
    place = mirror / "checkpoints"
    steps = [path for path in place.glob("*") if path.name.isdigit()]
    return {int(path.name): tag_of(path) for path in steps}


def begin(store, mirror, dead=(), say=lambda line: None):
    """Takes the workdir and fills the mirror, as the program does; returns lease and uploader."""
    mirror.mkdir(parents=True, exist_ok=True)
    continues = continues_without_ledger(mirror, store, read_ledger(store)[0])

    def prepare(previous, new):
        claim(mirror, previous, new, continues)
        return new

    lease = acquire(store, 60, dead, SleepingClock(), prepare=prepare)
    commits = recover(store, lease, say, needed_objects(mirror))
    fill(mirror, store, lease, commits, continues)
    return lease, Uploader(mirror, store, lease, commits)


def play(store, mirror, templates, history=HISTORY, done=None, started=None):
    """A run from whatever the bucket has to its end.

    Args:
        done: called with the number of each moment of the history that is completely uploaded.
        started: called when the mirror is filled.
    """
    lease, uploader = begin(store, mirror)
    if started:
        started()
    there = tags_in(mirror)
    newest = max(there, default=-1)
    # Continues after the last moment whose newest checkpoint it has, with the same content.
    past = [
        number
        for number, steps in enumerate(history)
        if newest == max(steps) and there[newest] == steps[newest]
    ]
    first = past[-1] if past else 0
    for number in range(first, len(history)):
        templates.put(mirror, history[number], rows=10 * (number + 1))
        ended = number == len(history) - 1
        uploader.bring(is_last=ended, ended=ended)
        if done:
            done(number)
    lease.release(finished=True)


def view_of(memory, prefix="checkpoints/"):
    """The objects of checkpoints that others read, except for manifests: name -> CRC-32."""
    return {
        name: zlib.crc32(data)
        for name, (data, _) in memory.objects.items()
        if name.startswith(prefix) and not name.endswith("files.json")
    }
