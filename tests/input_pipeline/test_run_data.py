"""A run's data as the loop consumes them: the rows of a split, and errors from its threads."""

import os

import pytest
from helpers.user_tables import row, write

from clac_jax.datasets.record import DataError
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models.encoders import encoder_needs
from configs import smoke


def run_data(config):
    return RunData(config, encoder_needs(config))


@pytest.fixture
def config(tmp_path):
    result = smoke.get_config()
    result.dataset.name = "gpt_narratives"
    result.dataset.path = str(write(tmp_path / "t.jsonl", [row(k) for k in range(200)]))
    result.dataset.data_dir = str(tmp_path / "data")
    result.dataset.max_examples = 0
    result.graph_encoder.name = "composition"
    return result


def test_a_fingerprint_covers_the_examples_that_a_run_uses(config, tmp_path):
    complete = run_data(config).splits.fingerprint("train")
    config.dataset.max_examples = 40
    some = run_data(config).splits.fingerprint("train")
    assert len({complete, some, run_data(config).splits.fingerprint("validation")}) == 3
    # Rows after the first 40 do not matter to a run that does not use them.
    config.dataset.data_dir = str(tmp_path / "elsewhere")
    assert run_data(config).splits.fingerprint("train") == some
    config.dataset.path = str(
        write(tmp_path / "u.jsonl", [row(k, gpt_text="Another.") for k in range(200)])
    )
    assert run_data(config).splits.fingerprint("train") != some


def test_damage_in_mid_epoch_comes_through_the_threads_as_one_error(config, tmp_path):
    data = run_data(config)
    batches = data.train_batches(0, 0)
    next(batches)
    (file,) = (tmp_path / "data").rglob("*-train.array_record*")
    os.truncate(file, 2000)
    with pytest.raises(DataError, match=r"is damaged: record \d+ of train cannot be read"):
        list(batches)
        list(data.train_batches(1, 0))
