"""The saved config of a run or an import: `--config=configs/saved.py:RUN/config.json`."""

import ml_collections

from clac_jax.config.schema import from_plain
from clac_jax.errors import ConfigError, one_line
from clac_jax.files.json import read_json_object
from clac_jax.files.paths import explain
from clac_jax.stores.copies import local_copy


def get_config(path: str) -> ml_collections.ConfigDict:
    file = local_copy(path, "--config=configs/saved.py:FILE")
    try:
        return from_plain(read_json_object(file))
    except OSError as error:
        raise ConfigError(f"Cannot read the config {file}: {explain(error)}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = one_line(str(error).strip("'\""), 300)
        raise ConfigError(
            f"{file} is not the config.json of a run ({reason}). Give the one next to the "
            "checkpoints, or start from a file in configs/."
        ) from error
