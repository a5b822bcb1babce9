"""A run's data as the loop consumes them: the rows of a split, and errors from its threads."""

import os

import numpy as np
import pytest
from helpers.user_tables import row, write

from clac_jax.datasets.record import DataError
from clac_jax.datasets.split import SPLITS, split_by_row
from clac_jax.input_pipeline.run_data import Gap, RunData
from clac_jax.input_pipeline.splits import Splits
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


@pytest.fixture
def splits_of_classes(config, tmp_path):
    """(split=value) -> splits with the classes 0 and 1, except for one example of each split."""

    def build(**changed):
        rows = [row(k, phase=k % 2) for k in range(200)]
        places = split_by_row(len(rows))
        for split, value in changed.items():
            number = int(np.flatnonzero(places == SPLITS.index(split))[0])
            rows[number] |= {"phase": value, "id": f"odd-{split}"}
        config.dataset.path = str(write(tmp_path / "classes.jsonl", rows))
        return Splits(config.dataset, "phase")

    return build


def test_the_classes_are_those_of_training(splits_of_classes):
    assert splits_of_classes().num_classes() == 2
    assert splits_of_classes(train=4, test=2).num_classes() == 5


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_class_that_training_lacks_is_refused_with_its_example(splits_of_classes, split):
    message = rf"\(odd-{split}\) of {split} has class 7 of 'phase', and the largest .* is 1,"
    with pytest.raises(DataError, match=message):
        splits_of_classes(**{split: 7}).num_classes()


@pytest.mark.parametrize("split, value", [("train", -1), ("validation", 0.5), ("test", -1)])
def test_a_value_that_is_not_a_class_is_refused_in_each_split(splits_of_classes, split, value):
    message = rf"'phase' is not a class.*\(odd-{split}\) of {split} has {value}\. Set"
    with pytest.raises(DataError, match=message):
        splits_of_classes(**{split: value}).num_classes()


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


def test_examples_are_left_out_of_a_property_whatever_the_weight_of_the_language_model(config):
    config.task, config.property.name, config.batch_size = "property", "band gap", 16
    config.accumulate_steps, config.lm_weight = 2, 0.1  # which has no effect without texts
    config.dataset.skip = (3,)
    masks = [batch.example_mask for batch in run_data(config).train_batches(0, 0)]
    assert np.size(masks) - np.sum(masks) == 1
