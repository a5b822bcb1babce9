"""The book-keeping of a checkpoint that stays valid under a changed config or changed data."""

import dataclasses
import shutil

import pytest
from etils import epath
from helpers.states import begin as begin_with
from helpers.states import changed, fresh_arrays, make_config, save_run, shapes_of

from clac_jax.checkpoint import locate
from clac_jax.checkpoint.changes import effect_of
from clac_jax.checkpoint.inspect import list_run
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.training.progress import RunProgress

DATA = {"train": "aaaa", "validation": "bbbb", "test": "cccc"}
MIDDLE = RunProgress(step=15, epoch=1, examples_in_epoch=50, examples_seen=150)
# 100 examples in steps of 32: the last step of the epoch is done.
VALIDATING = dataclasses.replace(MIDDLE, examples_in_epoch=96)
BEST = RunProgress(
    step=10,
    epoch=1,
    best_value=0.5,
    best_step=10,
    validations_since_best=3,
    learning_rate_scale=0.25,
    plateau_best=0.4,
    plateau_validations=2,
)
PLATEAU = {"schedule": "plateau"}


def begin(workdir, progress, config=None, data=DATA, saved_data=DATA, saved=None, **options):
    """The start of a run whose checkpoint has this progress and these data."""
    saved = saved or make_config(save_top_k=-1)
    save_run(workdir, {progress.step: (progress, {"val_loss": 0.5})}, saved, data=saved_data)
    return begin_with(workdir, config, data=data, **options)


def said(start, words):
    return any(words in note for note in start.notes)


def test_the_same_data_say_nothing(tmp_path):
    start = begin(tmp_path, MIDDLE)
    assert start.progress == MIDDLE
    assert not said(start, "changed")


def test_other_examples_of_the_same_number_restart_the_epoch(tmp_path):
    start = begin(tmp_path, MIDDLE, data=DATA | {"train": "dddd"})
    assert start.progress == dataclasses.replace(MIDDLE, examples_in_epoch=0)
    assert said(
        start,
        "changed   the training data are not those of the checkpoint: epoch 1 starts over",
    )


def test_other_data_are_named_between_epochs_too(tmp_path):
    progress = RunProgress(step=10, epoch=1, examples_seen=100)
    start = begin(tmp_path, progress, data=DATA | {"train": "dddd"})
    assert start.progress == progress
    assert said(start, "changed   the training data are not those of the checkpoint")


def test_a_file_that_moved_is_the_same_data(tmp_path):
    saved = make_config(save_top_k=-1)
    saved.dataset.path = "/old/table.csv"
    start = begin(tmp_path, MIDDLE, changed(dataset__path="/new/table.csv"), saved=saved)
    assert start.progress == MIDDLE
    assert said(start, "dataset.path: '/old/table.csv' -> '/new/table.csv' (the same examples)")


@pytest.mark.parametrize(
    "change",
    [
        {"dataset__path": "other.csv"},
        {"dataset__name": "gpt_narratives"},
        {"dataset__split_by": "formula"},
        {"dataset__text_source": "papers"},
    ],
)
def test_a_checkpoint_that_does_not_know_its_data_goes_by_the_config(tmp_path, change):
    start = begin(tmp_path, MIDDLE, changed(**change), saved_data={})
    assert start.progress.examples_in_epoch == 0
    assert said(start, "the training data are not those of the checkpoint: epoch 1 starts over")


def test_and_keeps_its_place_where_that_is_the_same(tmp_path):
    assert begin(tmp_path, MIDDLE, saved_data={}).progress == MIDDLE


@pytest.mark.parametrize("how", ["seed", "data"])
def test_an_epoch_that_lacks_its_validation_is_not_trained_again(tmp_path, how):
    config = changed(seed=7) if how == "seed" else None
    data = DATA if how == "seed" else DATA | {"train": "dddd"}
    start = begin(tmp_path, VALIDATING, config, data=data)
    assert start.progress == dataclasses.replace(VALIDATING, examples_in_epoch=100)
    assert said(start, "epoch 1 is trained, its validation comes next")


FORGOTTEN = {
    "monitor": ({"checkpoint__monitor": "text_to_crystal_top1"}, {}, "of a different metric"),
    "mode": ({"checkpoint__mode": "max"}, {}, "of a different metric"),
    "eval_batch_size": ({"eval_batch_size": 8}, {}, "measured with another eval_batch_size"),
    "loss": ({"loss__name": "siglip"}, {}, "measured with another loss.name"),
    "texts": ({"dataset__text_source": "papers"}, {}, "another dataset.text_source"),
    "model": ({"graph_encoder__cutoff": 4.0}, {}, "another graph_encoder.cutoff"),
    "validation data": ({}, {"validation": "dddd"}, "measured with other validation data"),
}


@pytest.mark.parametrize("change, data, words", FORGOTTEN.values(), ids=FORGOTTEN)
def test_values_measured_differently_are_forgotten_but_the_rate_stays(
    tmp_path, change, data, words
):
    saved = make_config(save_top_k=-1)
    saved.schedule = "plateau"
    start = begin(tmp_path, BEST, changed(**PLATEAU, **change), data=DATA | data, saved=saved)
    assert start.progress == dataclasses.replace(
        BEST,
        best_value=None,
        best_step=None,
        validations_since_best=0,
        plateau_best=None,
        plateau_validations=0,
    )
    assert said(start, f"changed   the best value so far was {words}") or said(start, words)
    assert said(start, "is forgotten")


@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 8},
        {"learning_rate": 1e-5},
        {"text_encoder__dropout": 0.3},
        {"text_encoder__pretrained": "elsewhere/minilm"},
        {"checkpoint__monitor": "val_loss", "max_epochs": 9},
    ],
)
def test_settings_that_act_only_in_training_keep_the_best(tmp_path, change):
    saved = make_config(save_top_k=-1)
    saved.schedule = "plateau"
    assert begin(tmp_path, BEST, changed(**PLATEAU, **change), saved=saved).progress == BEST


def test_a_batch_in_which_nothing_is_contrasted_does_not_matter_to_retrieval(tmp_path):
    monitor = {"checkpoint__monitor": "text_to_crystal_top1", "checkpoint__mode": "max"}
    start = begin(tmp_path, BEST, changed(**monitor, eval_batch_size=8), saved=changed(**monitor))
    assert start.progress.best_value == 0.5


@pytest.mark.parametrize("change", [{}, {"checkpoint__mode": "max"}, {"eval_batch_size": 8}])
def test_another_run_keeps_the_memory_of_plateaus_if_it_can(tmp_path, change):
    saved = make_config(save_top_k=-1)
    saved.schedule = "plateau"
    save_run(tmp_path / "one", {10: (BEST, {"val_loss": 0.5})}, saved, data=DATA)
    (tmp_path / "two").mkdir()
    config = changed(**PLATEAU, **change, resume_from=str(tmp_path / "one"))
    found = begin_with(tmp_path / "two", config, data=DATA).progress
    assert (found.best_value, found.learning_rate_scale) == (None, 0.25)
    assert (found.plateau_best, found.plateau_validations) == ((None, 0) if change else (0.4, 2))


def test_resume_from_is_not_ignored_without_a_word(tmp_path):
    start = begin(tmp_path, MIDDLE, changed(resume_from="other@best"))
    assert said(start, "-> 'other@best' (not used: the workdir has its own checkpoints)")
    itself = changed(resume_from=f"{tmp_path}@best")
    start = begin_with(tmp_path, itself, data=DATA)
    assert said(start, "is this run's own workdir")
    # Not when the same command is run again, as intended.
    config = changed(resume_from="other@best")
    save_run(tmp_path / "stage2", {15: (MIDDLE, None)}, config, data=DATA)
    assert not said(begin_with(tmp_path / "stage2", config, data=DATA), "resume_from")


def test_each_changed_key_is_described_by_its_declaration(tmp_path):
    start = begin(tmp_path, MIDDLE, changed(optimizer__b1=0.8, graph_encoder__max_neighbours=12))
    assert said(start, "optimizer.b1: 0.9 -> 0.8 (applies from the next step)")
    assert said(start, "max_neighbours: 0 -> 12 (the graphs have other edges from the next")
    assert effect_of("checkpoint.retries") == ""


def saved_as(workdir, values, config, data=DATA):
    """Saves checkpoints {step: val_loss} into a run that may already have some."""
    for step, value in values.items():
        progress = RunProgress(step=step, epoch=step // 10, examples_seen=10 * step)
        save_run(workdir, {step: (progress, {"val_loss": value})}, config, data=data)


def test_the_best_is_chosen_among_values_of_one_measure(tmp_path):
    """The loss is smaller only because batches of 4 have a smaller loss: not a better model."""
    small, large = make_config(save_top_k=1), make_config(save_top_k=1)
    small.eval_batch_size = 4
    saved_as(tmp_path, {10: 0.3, 20: 0.2}, small)
    saved_as(tmp_path, {30: 0.9, 40: 0.8, 50: 0.85}, large)
    intact, damaged = read_all(epath.Path(tmp_path) / "checkpoints")
    # The best checkpoint by the earlier measure also stays.
    assert set(intact) == {20, 40, 50}
    assert locate.locate(f"{tmp_path}@best").step == 40
    kept = {row["step"]: row["kept"] for row in list_run(intact, damaged)}
    assert kept == {20: ["best by an earlier measure"], 40: ["best val_loss"], 50: ["last"]}
    # Until the first validation by a new measure, the best by the previous one counts.
    for step in (40, 50):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    middle = RunProgress(step=45, epoch=4, examples_in_epoch=50)
    save_run(tmp_path, {45: (middle, None)}, large, data=DATA)
    assert locate.locate(f"{tmp_path}@best").step == 20


def test_a_value_of_other_validation_data_is_not_compared_with(tmp_path):
    config, shapes = make_config(save_top_k=1), shapes_of(fresh_arrays())
    saved_as(tmp_path, {10: 0.1, 20: 0.2}, config)
    others = DATA | {"validation": "dddd"}
    checkpoints = Checkpoints(tmp_path, config, shapes, 100, data=others)
    assert checkpoints.best_first() == [10], "nothing has been measured on them yet"
    for step, loss in ((30, 0.8), (40, 0.7), (50, 0.9)):
        checkpoints.save(fresh_arrays(), RunProgress(step=step), {"val_loss": loss})
    checkpoints.wait()
    assert checkpoints.best_first() == [40, 50, 10]
    checkpoints.close()
    assert set(read_all(epath.Path(tmp_path) / "checkpoints")[0]) == {10, 40, 50}
