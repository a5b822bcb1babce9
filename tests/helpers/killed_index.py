"""Runs a command of `clac-jax` with a stub model, and kills it at every one of its file operations.

    python killed_index.py START WORK COMMAND...

START is copied to WORK/INDEX before each run; in COMMAND, "INDEX" is replaced by that path. Prints
the number of kills, and a line for each after which the index was unreadable or which the same
command did not end with the bytes of an undisturbed run.
"""

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import clac_jax
import clac_jax.cli.embed  # here and not in each child
import clac_jax.index.build
import clac_jax.index.check
from clac_jax.cli import main as cli
from clac_jax.index.items import table_of
from clac_jax.index.layout import CONTENTS
from clac_jax.index.sources import SourceOptions, Sources
from clac_jax.index.store import Index
from helpers.paths import ROOT
from helpers.stub_model import StubModel

OPERATIONS = ("replace", "rename", "unlink", "mkdir")


def killed(start, work, *command):
    """Lines of this program with these arguments; the last is the number of kills."""
    done = subprocess.run(
        [sys.executable, __file__, str(start), str(work), *command],
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def contents(folder):
    """Path -> bytes of the files of an index; the lock is not part of it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def kill_at(event):
    """Makes this process kill itself before its operation number `event`."""
    count = -1

    def counted(function):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    for name in OPERATIONS:
        setattr(os, name, counted(getattr(os, name)))


def in_child(function, *args):
    """The exit status of a child process that calls a function."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            code = function(*args)
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def run(command, event=None):
    """The command; killed at an event, if one is given."""
    clac_jax.load = lambda name: StubModel()
    if event is not None:
        kill_at(event)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return cli.main(command)


def _warm_up(tables):
    """Imports in this process what each child would import; starts no threads."""
    rows = list(Sources(tables, SourceOptions()).rows())
    table_of([row.read() for row in rows])
    StubModel().embed_texts(["text"])


def is_readable(folder):
    """0 if the index is as it was before, or as it is to be."""
    damage = [line for line in Index(folder).check() if "DAMAGED" in line or "cannot" in line]
    return 1 if damage else 0


def main(start, work, *command):
    """Kills the command at each operation in turn, until it ends undisturbed."""
    work, folder = Path(work), Path(work) / "INDEX"
    command = [str(folder) if word == "INDEX" else word for word in command]

    def reset():
        shutil.rmtree(folder, ignore_errors=True)
        if Path(start).is_dir():
            shutil.copytree(start, folder)

    reset()
    _warm_up([word for word in command if word.endswith(".jsonl")])
    assert in_child(run, command) == 0
    wanted = contents(folder)
    event = 0
    while True:
        reset()
        status = in_child(run, command, event)
        if not os.WIFSIGNALED(status):
            break
        if (Path(start) / CONTENTS).exists() and in_child(is_readable, folder):
            print(f"unreadable after a kill at {event}")
        if in_child(run, command) != 0:
            print(f"cannot be resumed after a kill at {event}")
        elif contents(folder) != wanted:
            print(f"other bytes after a kill at {event}")
        event += 1
    print(event)


if __name__ == "__main__":
    main(*sys.argv[1:])
