"""A program that trains a population, for tests: quick to look, and with members that pretend."""

import os
import sys
import threading

from clac_jax.sweeps import driver, trial_run
from clac_jax.sweeps.definition import Definition
from clac_jax.sweeps.driver import Program
from clac_jax.sweeps.population_run import PopulationDriver
from clac_jax.sweeps.storage import Storage
from helpers.paths import ROOT

MEMBER = (sys.executable, "-S", str(ROOT / "tests" / "helpers" / "pretend_member.py"))


def pauses():
    """(module, name, seconds) of the pauses that are shorter in tests."""
    return (
        (driver, "POLL_SECONDS", 0.005),
        (driver, "LOOK_SECONDS", 0.02),
        (driver, "BEAT_SECONDS", 0.2),
        (trial_run, "POLL_SECONDS", 0.005),
        (trial_run, "PAUSE_SECONDS", 0.01),
    )


def storage_in(workdir, url=""):
    """The storage of a population: in its folder, or where `url` says."""
    return Storage(url or f"sqlite:///{workdir}/sweep.db", "population")


def started(definition, storage, workdir, say=lambda line: None, slots=2):
    program = Program(workdir, [{} for _ in range(slots)], MEMBER, say)
    return PopulationDriver(definition, storage, program)


def trained(definition, workdir, url=""):
    """The trials of a population that is trained to its end by this program."""
    with storage_in(workdir, url) as storage:
        assert started(definition, storage, workdir).run(threading.Event())
        return storage.trials()


def train_quickly(plain, workdir, url=""):
    """The main function of a program in a process of its own."""
    for pause in pauses():
        setattr(*pause)
    trained(Definition.from_plain(plain), workdir, url)


def train_real_members(plain, workdir, environment):
    """The main function of a program whose members are real trainings."""
    os.environ.update(environment)
    with storage_in(workdir) as storage:
        program = Program(workdir, say=lambda line: None)
        population = PopulationDriver(Definition.from_plain(plain), storage, program)
        assert population.run(threading.Event())
