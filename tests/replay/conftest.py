"""Runs that are replayed."""

import pytest
from helpers.replayed_runs import blank_pictures, tiny_config

from clac_jax.training_run import train


@pytest.fixture(scope="package")
def run(data_dir, tmp_path_factory):
    """The workdir of a run of one epoch, four steps."""
    workdir = tmp_path_factory.mktemp("replayed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        blank_pictures(patch)
        train(tiny_config(data_dir), workdir)
    return workdir


@pytest.fixture(scope="package")
def storied(data_dir, tmp_path_factory):
    """A run of four starts: another batch size and rate, then accumulation and a plateau."""
    workdir = tmp_path_factory.mktemp("replayed") / "storied"
    with pytest.MonkeyPatch.context() as patch:
        blank_pictures(patch)
        for changes in (
            {},
            {"max_epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
            {"max_epochs": 3, "batch_size": 2, "accumulate_steps": 2, "optimizer__name": "lion"},
            {"max_epochs": 6, "schedule": "plateau", "plateau__patience": 0, "warmup_steps": 0},
        ):
            train(tiny_config(data_dir, checkpoint__save_top_k=-1, **changes), workdir)
    return workdir
