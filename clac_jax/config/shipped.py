"""The configs shipped with the package, by name: `--config=base`, `shipped_config("base")`.

They are the files in the top-level folder `configs/` of a clone; in a wheel they are in
`clac_jax/configs/`. Config files build on each other by name rather than by import, because the
module names differ between the two.
"""

from __future__ import annotations

import difflib
import importlib.util
from pathlib import Path

import ml_collections

from clac_jax.config.schema import ConfigError
from clac_jax.errors import error_reason, one_line


def config_folder() -> Path:
    """The folder of the shipped configs."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def shipped_names() -> list[str]:
    """The names of the shipped configs, in alphabetical order."""
    return sorted(file.stem for file in config_folder().glob("[!_]*.py"))


def shipped_file(name: str) -> Path:
    """The path of a shipped config file.

    Raises:
        ConfigError: no shipped config has that name.
    """
    names = shipped_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"Unknown config {name!r}. {hint}Give one of {', '.join(names)}, or the path of a "
            "config file."
        )
    return config_folder() / f"{name}.py"


def shipped_config(name: str, *argument: str) -> ml_collections.ConfigDict:
    """A fresh copy of a shipped config, for a config file that changes some of its keys.

    Args:
        name: name of the config ("base").
        argument: the text after a colon on the command line (NAME in `losses:NAME`).

    Raises:
        ConfigError: no shipped config has that name.
    """
    return _run(shipped_file(name), *argument)


def config_named(text: str) -> ml_collections.ConfigDict:
    """The config that `--config=TEXT` names: a shipped one, or a file; with an argument or without.

    Raises:
        ConfigError: there is no such config, or its file cannot be run.
    """
    name, colon, rest = text.partition(":")
    argument = (rest,) if colon else ()
    path = Path(name)
    if name.isidentifier() and not path.exists():
        return shipped_config(name, *argument)
    try:
        return _run(path, *argument)
    except Exception as error:  # a config file may raise any type
        reason = (
            error_reason(error)
            if isinstance(error, OSError)
            else (f"{type(error).__name__}: {one_line(error)}")
        )
        raise ConfigError(
            f"The config {name} cannot be loaded: {reason}. Fix the file, or give the name of one "
            f"of clac-jax's own: {', '.join(shipped_names())}."
        ) from error


def _run(file: Path, *argument: str) -> ml_collections.ConfigDict:
    spec = importlib.util.spec_from_file_location(f"clac_jax_config_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{file} cannot be loaded. Name a Python file.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config: ml_collections.ConfigDict = module.get_config(*argument)
    return config
