"""The config that a run or an import has written: `--config=configs/saved.py:RUN/config.json`."""

import json
from pathlib import Path

import ml_collections

from clac_jax.config import default_config


def get_config(path: str) -> ml_collections.ConfigDict:
    config = default_config()
    values = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    with config.ignore_type():
        config.update(ml_collections.ConfigDict(values))
    return config
