"""A run's data as the loop consumes them: the rows of a split, and errors from its threads."""

import os

import pytest
from helpers.user_tables import row, write

from clac_jax.datasets.record import DataError
from clac_jax.input_pipeline.run_data import Gap, RunData
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


def test_an_epoch_that_was_started_has_the_same_batches(config):
    config.batch_size = 16

    def digests(data, epoch, start=0):
        return [batch.digests.tolist() for batch in data.train_batches(epoch, start)]

    plain, started = run_data(config), run_data(config)
    wanted = [digests(plain, epoch) for epoch in range(3)]
    assert digests(started, 0) == wanted[0]
    started.start_epoch(1)
    assert started._started is None, "it would slow down the compilation of the first evaluation"
    next(started.eval_batches("validation"))
    started.start_epoch(1)
    assert digests(started, 1) == wanted[1]
    # What was started is not used for another epoch, for the rest of one, or once more.
    started.start_epoch(1)
    assert digests(started, 2) == wanted[2]
    started.start_epoch(2)
    assert digests(started, 2, 32) == wanted[2][2:]
    assert digests(started, 2) == wanted[2]
    # Nor if other examples are left out since.
    started.start_epoch(2)
    started.gaps = plain.gaps = (Gap(2, 0, frozenset((3, 5))),)
    assert digests(started, 2) == digests(plain, 2) != wanted[2]
