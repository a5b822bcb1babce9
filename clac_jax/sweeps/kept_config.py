"""The config of a sweep as it was when the sweep started: a later change reaches no trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clac_jax.config.schema import differences, from_plain, to_json, to_plain
from clac_jax.config.shipped import config_named
from clac_jax.errors import one_line
from clac_jax.files.atomic import write_atomically
from clac_jax.sweeps.definition import Definition, SweepFileError

CONFIG_FILE = "config.py"
# JSON has no three double quotes in a row, so it can be in a raw string as it is.
_PROGRAM = '''"""The config of all trials, as it was when the sweep started.

Written again by each `clac-jax sweep start`: do not edit it.
"""

import json

from clac_jax.config.schema import from_plain


def get_config():
    return from_plain(json.loads(CONFIG))


CONFIG = r"""
{json}"""
'''


def current(given: Definition) -> dict[str, Any]:
    """All keys of the config that a sweep file names, nested, as the config is now.

    Raises:
        ConfigError: there is no such config, or its file cannot be run.
    """
    return to_plain(config_named(given.config).copy_and_resolve_references())


def check_unchanged(kept: dict[str, Any], given: Definition, complete: Definition) -> None:
    """Checks that a config still is what the trials of a sweep are run with.

    Args:
        kept: the config when the sweep started. Keys that a newer version of the program has added
            have their defaults.
        given: the sweep file; keys that it sets in every trial may differ in the config.
        complete: the complete definition.

    Raises:
        SweepFileError: other keys of the config differ.
        ConfigError: there is no such config any more, or its file cannot be run.
    """
    own = {name for name, domain in complete.space.items() if not domain.when} | {*given.overrides}
    changes = [
        f"{key}: {_shown(old)} -> {_shown(new)}"
        for key, old, new in differences(to_plain(from_plain(kept)), current(given))
        if key not in own
    ]
    if changes:
        raise SweepFileError(
            f"The config {given.config} of {given.file} differs from what the sweep was started "
            f"with: {'; '.join(changes)}. Restore the config, or start a new sweep with another "
            "--workdir."
        )


def write(kept: dict[str, Any], workdir: Path) -> Path:
    """Writes a config into the folder of a sweep as a file for `--config`; returns its path.

    Raises:
        WorkdirError: it cannot be written.
    """
    path = workdir / CONFIG_FILE
    write_atomically(path, _PROGRAM.replace("{json}", to_json(from_plain(kept))))
    return path


def _shown(value: Any) -> str:
    return one_line(json.dumps(value), 80)
