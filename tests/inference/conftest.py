"""One short run, for all tests of models in use."""

import json
import os

import pytest
from helpers.language_model_folders import write_small_bert

import clac_jax
from clac_jax import datasets
from configs import smoke

NUM_TEST = 8


@pytest.fixture(scope="session")
def run(data_dir, tmp_path_factory):
    """A smoke run's workdir, and its test split; its text encoder was a pretrained one."""
    folder = tmp_path_factory.mktemp("inference")
    language_model = write_small_bert(folder / "bert")
    config = smoke.get_config()
    config.dataset.data_dir = str(data_dir)
    config.dataset.max_examples = NUM_TEST
    config.text_encoder.pretrained = str(language_model)
    config.text_encoder.tokenizer = str(language_model)
    config.text_encoder.num_layers = 1
    config.use_visual_intramodal_loss = config.use_textual_intramodal_loss = False
    config.checkpoint.every_n_steps = 1
    config.checkpoint.save_top_k = -1
    config.logging.tensorboard = False
    config.compilation_cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    clac_jax.train(config, folder / "run")
    split = datasets.load(config.dataset.name, data_dir, "test")
    return folder / "run", [split[k] for k in range(NUM_TEST)]


@pytest.fixture(scope="session")
def row_of_test(run):
    """The test row at the end of the run."""
    return json.loads((run[0] / "metrics.jsonl").read_text().splitlines()[-1])


@pytest.fixture(scope="session")
def tested(run, row_of_test):
    """Name of the checkpoint that the end of the run has tested."""
    return f"{run[0]}@step={row_of_test['checkpoint_step']}"


@pytest.fixture(scope="session")
def model(tested):
    return clac_jax.load(tested)


@pytest.fixture(scope="session")
def crystals(run):
    return [record.crystal() for record in run[1]]


@pytest.fixture(scope="session")
def texts(run):
    return [record.text_of("narratives", None) for record in run[1]]
