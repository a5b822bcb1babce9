"""A run that is proven."""

import shutil

import pytest
from helpers.replayed_runs import blank_pictures, tiny_config

from clac_jax.training_run import train


@pytest.fixture(scope="package")
def run(data_dir, tmp_path_factory):
    """The workdir of a run of two epochs, with a checkpoint every two steps."""
    workdir = tmp_path_factory.mktemp("proven") / "run"
    config = tiny_config(
        data_dir,
        max_epochs=2,
        log_every_n_steps=1,
        checkpoint__every_n_steps=2,
        checkpoint__save_top_k=-1,
    )
    with pytest.MonkeyPatch.context() as patch:
        blank_pictures(patch)
        train(config, workdir)
    return workdir


@pytest.fixture
def copy(run, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(run, tmp_path / "run")
