"""A program of `clac-jax sweep start`, for tests: quick to look, and with trials that pretend."""

import multiprocessing
import os
import sys
import threading
from pathlib import Path

from clac_jax.sweeps import driver, trial_run
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.devices import slots
from clac_jax.sweeps.driver import Driver, Program
from clac_jax.sweeps.storage import Storage
from helpers.paths import ROOT

PRETEND = (sys.executable, str(ROOT / "tests" / "helpers" / "pretend_trial.py"))


def be_quick():
    """Shortens all pauses of this process."""
    trial_run.POLL_SECONDS = driver.POLL_SECONDS = 0.01
    trial_run.PAUSE_SECONDS = 0.02
    driver.LOOK_SECONDS = 0.03
    driver.BEAT_SECONDS = 0.2


def drive(definition, url, workdir, environment=None, stop=None, command=PRETEND):
    """Runs the trials of a sweep -> whether it is finished."""
    os.environ.update(environment or {})
    lines = open(Path(workdir) / f"program-{os.getpid()}.txt", "a", buffering=1)  # noqa: SIM115
    with lines, Storage(url, "lr") as storage:
        program = Program(Path(workdir), slots(0, 2), command, lambda text: print(text, file=lines))
        given = Definition.from_plain(definition)
        return Driver(given, storage, program).run(stop or threading.Event())


def drive_quickly(definition, url, workdir, environment):
    """The main function of a program in a process of its own."""
    be_quick()
    drive(definition, url, workdir, environment)


def drive_real_trials(definition, url, workdir, environment):
    """The main function of a program whose trials train."""
    drive(definition, url, workdir, environment, command=())


def programs():
    """A context of `multiprocessing` whose processes have their imports already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "optuna", "sqlalchemy.dialects.sqlite"])
    return context
