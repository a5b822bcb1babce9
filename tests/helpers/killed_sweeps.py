"""Sweeps in several programs that are killed at random, and trials too."""

import contextlib
import json
import os
import random
import signal
import time

from clac_jax.sweeps.process_name import ProcessName


def living_trials(workdir):
    """The process ids of the trials that run."""
    paths = [*workdir.glob("trials/*/trial.json"), *workdir.glob("members/*/*/trial.json")]
    for path in sorted(paths):
        with contextlib.suppress(ValueError, FileNotFoundError):
            child = ProcessName(**json.loads(path.read_text())["child"])
            if child.is_alive():
                yield child.number


def run_killed(begin, workdir, kills, number, pauses):
    """Runs programs to the end of a sweep; killed ones start again.

    Args:
        begin: starts a program: a `multiprocessing.Process`.
        workdir: the folder of the sweep.
        kills: number of SIGKILLs, of programs and of trials equally often.
        number: programs that run at the same time.
        pauses: shortest and longest time between two kills, seconds.
    """
    chance, deadline = random.Random(3), time.monotonic() + 3600
    running = [begin() for _ in range(number)]
    next_kill = time.monotonic()
    try:
        while any(process.exitcode != 0 for process in running):
            assert time.monotonic() < deadline
            time.sleep(0.01)
            victims = list(living_trials(workdir))
            if kills and victims and time.monotonic() > next_kill:
                is_trial = chance.random() < 0.5
                target = chance.choice(victims if is_trial else [p.pid for p in running])
                next_kill = time.monotonic() + chance.uniform(*pauses)
                with contextlib.suppress(ProcessLookupError):  # it has just ended
                    os.kill(target, signal.SIGKILL)
                    kills -= 1
            for place, process in enumerate(running):
                if process.exitcode not in (None, 0):
                    assert process.exitcode == -signal.SIGKILL
                    running[place] = begin()
    finally:
        for process in running:
            process.kill()
            process.join()
    assert not kills, f"the sweep has ended {kills} kills too early"
