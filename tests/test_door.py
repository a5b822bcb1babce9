"""The contents and the cost of `import clac_jax`, each in a separate process."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import clac_jax

ROOT = Path(__file__).parents[1]
HEAVY = ("jax", "flax", "numpy", "orbax", "ml_collections", "tensorflow_datasets", "absl", "rdkit")


def fresh(program, **options):
    """The words that a program prints in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def loaded(statement):
    """The modules that a statement loads."""
    return set(fresh(f"import sys\n{statement}\nprint(*sys.modules)"))


def test_importing_the_package_imports_nothing_else():
    modules = loaded("import clac_jax")
    assert not modules & set(HEAVY)
    assert {name for name in modules if name.startswith("clac_jax")} == {"clac_jax"}


def test_the_names_of_the_door_are_listed_before_they_are_loaded():
    names = fresh("import clac_jax, sys\nassert 'jax' not in sys.modules\nprint(*dir(clac_jax))")
    assert set(clac_jax.__all__) <= set(names)


def test_the_error_of_inputs_is_caught_without_loading_jax():
    assert not loaded("import clac_jax; clac_jax.InputError") & {"jax", "flax", "numpy"}


def test_crystals_need_no_jax():
    modules = loaded(
        "import clac_jax; from clac_jax.crystals import CrystalError; clac_jax.Crystal"
    )
    assert "numpy" in modules
    assert not modules & {"jax", "jaxlib", "flax", "pymatgen", "clac_jax.crystals.cif"}


@pytest.mark.parametrize("name", clac_jax.__all__)
def test_every_name_is_there_and_no_module_can_take_its_place(name):
    assert getattr(clac_jax, name) is not None
    assert name not in {module.name for module in pkgutil.iter_modules(clac_jax.__path__)}


ORDERS = (
    "from clac_jax import train",
    "import clac_jax.training_run; from clac_jax import train",
    "from clac_jax import train; import clac_jax.training_run; from clac_jax import train",
    "from clac_jax import *",
)
# Forked from a process that has imported the other libraries, which take most of the time.
IN_FORKS = """
import os, sys
import absl.app, flax.linen, jax, ml_collections, optax, orbax.checkpoint, tensorflow_datasets

assert not any(name.startswith("clac_jax") for name in sys.modules)
for statements in sys.stdin.read().splitlines():
    if os.fork() == 0:
        exec(statements)
        print(type(train).__name__, train.__module__, flush=True)
        os._exit(0)
    os.wait()
"""


def test_train_is_the_function_in_whatever_order_things_are_imported():
    printed = fresh(IN_FORKS, input="\n".join(ORDERS))
    assert printed == ["function", "clac_jax.training_run"] * len(ORDERS)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        clac_jax.trian  # noqa: B018
