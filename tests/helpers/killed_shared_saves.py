"""Saves a state with arrays that are stored once, killed at each step of the protocol in turn.

    python killed_shared_saves.py WORK [POINT ...]

Each save is a child of this program. Prints one JSON object: a case ("linked at merged") -> "old"
or "new", the state that the next start finds, or what is wrong with it.
"""

import json
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

from clac_jax.files import protocol
from clac_jax.training.progress import RunProgress
from helpers.frozen_states import assert_run_is, open_run, state_at
from helpers.killed_saves import in_child

OLD = {1: state_at(1, other=0)}
CASES = {
    "linked": ("save started", "group linked", "parts complete", "marked as unfinished"),
    "written": ("group started", "group written", "put into the store", "group added"),
    "both": (
        "merged",
        "all files written",
        "committed",
        "parts removed",
        "removal started",
        "moved to the trash",
    ),
}


def new_state(kind):
    """Step 2: one group is linked; unless it is all, a second one is written for the first time."""
    return state_at(2, other=None if kind == "linked" else 0)


def save(workdir, step, arrays, dies_at=None):
    """Saves one step, keeping only the last; kills itself at a point, if one is given."""

    def reached(point):
        if point == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    protocol.reached = reached
    checkpoints = open_run(workdir, save_top_k=0, store=str(workdir.parent / "store"))
    checkpoints.save(arrays, RunProgress(step=step), None)
    checkpoints.close()


def code_of(child):
    """The exit code of a child."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def found(workdir, kind):
    """The state that the next start finds: it opens the run, as one that resumes does."""
    open_run(workdir, save_top_k=0).close()
    new = new_state(kind)
    for name, states in {"old": OLD, "new": {2: new}, "both": {**OLD, 2: new}}.items():
        try:
            assert_run_is(workdir, states)
        except AssertionError:
            continue
        return "new" if name == "both" else name
    return f"other numbers, or {sorted(os.listdir(workdir / 'checkpoints'))}"


def after(workdir, kind):
    """Saves once more; what is left is that checkpoint, and its files in the store."""
    result, state = found(workdir, kind), new_state(kind) | {"step": state_at(3)["step"]}
    save(workdir, 3, state)
    assert_run_is(workdir, {3: state})
    names = {path.name for path in (workdir / "checkpoints" / "3" / "state").iterdir()}
    assert {path.name for path in (workdir.parent / "store").iterdir()} <= names
    return result


def report(cases):
    """Prints what the next start finds after each case."""
    print(json.dumps({case: after(*facts) for case, facts in cases.items()}))


def main(work, only):
    """Runs all cases, or those at some points."""
    warnings.filterwarnings("ignore", "os.fork")
    cases, template = {}, work / "template"
    assert code_of(in_child(save, template / "run", 1, OLD[1])) == 0
    for kind, points in CASES.items():
        for point in points:
            if only and point not in only:
                continue
            folder = work / f"case{len(cases)}"
            cases[f"{kind} at {point}"] = folder / "run", kind
            subprocess.run(["cp", "-a", template, folder], check=True)  # with its links
            ended = code_of(in_child(save, folder / "run", 2, new_state(kind), point))
            assert ended == -signal.SIGKILL, (kind, point, ended)
    assert code_of(in_child(report, cases)) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
