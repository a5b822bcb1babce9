"""Saves a state in two processes, and kills one of them at each step of the protocol in turn.

    python killed_saves.py WORK

Each process is a child of this program and saves plain arrays with the code of a run. Prints one
JSON object: a case ("process 1 at part written") -> the step that the next start finds, or what is
wrong with it.
"""

import json
import os
import shutil
import signal
import sys
import time
import warnings
from pathlib import Path

from clac_jax.checkpoint import resume
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.files import protocol
from clac_jax.training.progress import RunProgress
from helpers.divided_states import arrays_at, open_checkpoints
from helpers.states import make_config

PART = ("part started", "part written", "part described", "part noted")
FIRST = (
    "save started",
    *PART,
    "parts complete",
    "marked as unfinished",
    "part added",
    "merged",
    "all files written",
    "committed",
    "parts removed",
    "removal started",
    "moved to the trash",
)
REPLACING = "old one of the step moved"
CASES = [
    *((0, point, False) for point in FIRST),
    *((1, point, False) for point in PART),
    (0, REPLACING, True),
    (0, "merged", True),
]


def in_child(function, *args):
    """The process ID of a child that calls a function."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        function(*args)
        code = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def save(workdir, index, processes, step, ready, dies_at=None):
    """Saves one step as process `index` of several; kills itself at a point, if one is given."""

    def reached(point):
        if point == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    protocol.reached = reached
    checkpoints = open_checkpoints(workdir, index, processes, f"to{step}-", save_top_k=0)
    # As in a run, the first one has cleared what earlier saves left before any other one saves.
    if index:
        os.read(ready[0], 1)
    else:
        os.write(ready[1], bytes(processes))
    checkpoints.save(arrays_at(step), RunProgress(step=step), None)
    checkpoints.close()


def together(workdir, processes, step, killed=None, point=None):
    """Saves in several processes; once the killed one is dead, the others get little time.

    Returns the exit code of each that has ended before.
    """
    ready = os.pipe()
    children = {
        in_child(save, workdir, k, processes, step, ready, point if k == killed else None): k
        for k in range(processes)
    }
    ended, deadline = {}, time.monotonic() + 60
    while children and time.monotonic() < deadline:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            time.sleep(0.005)
            continue
        ended[children.pop(child)] = os.waitstatus_to_exitcode(status)
        if killed in ended:
            # The first one merges a part that was noted before the death; more it cannot do.
            limit = 30 if killed and point == PART[-1] else 0.2
            deadline = min(deadline, time.monotonic() + limit)
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    for end in ready:
        os.close(end)
    return ended


def found(workdir):
    """The step that the next start finds there, or what is wrong."""
    origin = resume.find_origin(make_config(), workdir)
    steps = sorted(origin.own)
    left = sorted(os.listdir(workdir / "checkpoints"))
    if origin.damaged or left != list(map(str, steps)) or not steps:
        return f"damaged {sorted(origin.damaged)}, there are {left}"
    newest = origin.own[steps[-1]]
    for path, array in read_arrays(newest, newest.leaves).items():
        wanted = arrays_at(newest.step)[path]
        if (array.dtype, array.tobytes()) != (wanted.dtype, wanted.tobytes()):
            return f"other numbers in {path}"
    return newest.step


def report(cases):
    """Prints what the next start finds after each case."""
    print(json.dumps({case: found(workdir) for case, workdir in cases.items()}))


def main(work):
    """Runs all cases."""
    warnings.filterwarnings("ignore", "os.fork")
    templates = {False: work / "one", True: work / "two"}
    assert together(templates[False], 2, 1) == {0: 0, 1: 0}
    shutil.copytree(templates[False], templates[True])
    assert together(templates[True], 2, 2) == {0: 0, 1: 0}
    cases = {}
    for number, (killed, point, replaces) in enumerate(CASES):
        case = f"process {killed} at {point}" + (", replacing" if replaces else "")
        cases[case] = workdir = work / f"case{number}"
        shutil.copytree(templates[replaces], workdir)
        ended = together(workdir, 2, 2, killed, point)
        assert ended[killed] == -signal.SIGKILL, (case, ended)
    for processes in (1, 2, 3):  # the next start has any number of processes
        case = f"{processes} processes after a kill"
        cases[case] = work / case
        shutil.copytree(work / f"case{processes + 1}", cases[case])
        assert set(together(cases[case], processes, 3).values()) == {0}, case
    os.waitpid(in_child(report, cases), 0)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
