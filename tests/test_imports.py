"""Modules loaded by importing a part of the package, which changes no state of the process."""

import json
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import clac_jax

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(clac_jax.__path__, "clac_jax.", onerror=lambda name: None)
    if not module.name.endswith("__main__")
)

LOADED = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(list(sys.modules)))
"""

# Imports third-party packages first, which may change anything, and then ours.
CHANGES = """
import contextlib, importlib, json, logging, os, signal, sys, threading, warnings

ours, theirs = json.loads(sys.stdin.read())
for name in theirs:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
import jax, matplotlib, spglib.error


def settings():
    loggers = {"root": logging.getLogger(), **logging.root.manager.loggerDict}
    return {
        "matplotlib": matplotlib.get_backend(auto_select=False),
        "spglib": spglib.error.OLD_ERROR_HANDLING,
        "JAX": {name: repr(value) for name, value in jax.config.values.items()},
        "signals": [repr(signal.getsignal(number)) for number in signal.valid_signals()],
        "wake-up": signal.set_wakeup_fd(signal.set_wakeup_fd(-1)),
        "warnings": list(map(repr, warnings.filters)),
        "hooks": list(map(id, (sys.excepthook, sys.unraisablehook, threading.excepthook))),
        "loggers": {
            name: [logger.level, len(logger.handlers), len(logger.filters)]
            for name, logger in loggers.items()
            if isinstance(logger, logging.Logger) and (logger.handlers or logger.filters)
        },
        "environment": dict(os.environ),
        "search path": sys.path[:],
        "folder": os.getcwd(),
        "recursion": sys.getrecursionlimit(),
        "threads": [thread.name for thread in threading.enumerate()],
        "streams": [id(sys.stdin), id(sys.stdout), id(sys.stderr)],
    }


before, changes = settings(), []
for name in ours:
    importlib.import_module(name)
    after = settings()
    changes += [f"{name} changes {what}" for what in before if before[what] != after[what]]
    before = after
print(json.dumps(changes))
"""


def in_fresh_process(script, *arguments, **options):
    command = [sys.executable, "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, **options)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def loaded_by(*modules):
    return in_fresh_process(LOADED, json.dumps(modules))


def within(package):
    return [name for name in MODULES if name == package or name.startswith(package + ".")]


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("clac_jax", ("numpy", "jax", "tensorflow_datasets", "orbax", "matplotlib")),
        ("clac_jax.errors", ("numpy", "jax")),
        ("clac_jax.crystals", ("jax", "clac_jax.datasets", "clac_jax.config", "matplotlib")),
        (
            "clac_jax.input_pipeline",
            tuple(
                f"clac_jax.{other}"
                for other in ("models", "training", "tasks", "checkpoint", "distributed")
            ),
        ),
        ("clac_jax.models", ("clac_jax.training", "clac_jax.checkpoint", "orbax")),
    ],
)
def test_a_package_loads_only_what_it_needs(package, absent):
    modules = [package] if package == "clac_jax" else within(package)
    assert modules
    loaded = loaded_by(*modules)
    roots = {".".join(name.split(".")[: depth + 1]) for name in loaded for depth in range(2)}
    assert roots & set(absent) == set()


def test_importing_changes_nothing():
    theirs = [name for name in loaded_by(*MODULES) if not name.startswith("clac_jax")]
    assert "jax" in theirs and "orbax.checkpoint" in theirs
    assert in_fresh_process(CHANGES, input=json.dumps([MODULES, theirs])) == []
