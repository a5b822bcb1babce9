"""Contrastive language-crystal pretraining (CLaC) in JAX, built around Orbax checkpoints.

The public interface. Anything not listed here, or documented as public, may change.

    train           trains a model, or resumes its training
    default_config  every key of a run's config at its default
    load            loads a trained model, to embed crystals and texts or to predict a property
    Model           what `load` returns
    Index           an index of crystals made by `clac-jax embed`, opened for reading
    InputError      raised for crystals, texts or labels that a model cannot process
    Crystal         a crystal, from a CIF, a pymatgen or an ASE object, or arrays

Importing this package imports no submodule: each name is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clac_jax.api import Model as Model
    from clac_jax.api import load as load
    from clac_jax.config.schema import default_config as default_config
    from clac_jax.crystals.crystal import Crystal as Crystal
    from clac_jax.index.store import Index as Index
    from clac_jax.inference.errors import InputError as InputError
    from clac_jax.training_run import train as train

__version__ = "0.2.0"

__all__ = [
    "Crystal",
    "Index",
    "InputError",
    "Model",
    "__version__",
    "default_config",
    "load",
    "train",
]

# The module of each name. No name may equal that of a module of this package: Python would replace
# it by the module as soon as that is imported.
_HOMES = {
    "Crystal": "clac_jax.crystals.crystal",
    "Index": "clac_jax.index.store",
    "InputError": "clac_jax.inference.errors",
    "Model": "clac_jax.api",
    "default_config": "clac_jax.config.schema",
    "load": "clac_jax.api",
    "train": "clac_jax.training_run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value  # so the next access bypasses this function
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
