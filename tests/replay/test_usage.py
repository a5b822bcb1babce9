"""The steps in which an example was used."""

import dataclasses

import numpy as np
import pytest
from helpers.replayed_runs import BATCH, STEPS_PER_EPOCH

from clac_jax.healing.actions import Action
from clac_jax.input_pipeline.order import epoch_order
from clac_jax.input_pipeline.splits import Splits
from clac_jax.journal.journal_file import HEALED
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import read_history
from clac_jax.replay.replayer import Replayer
from clac_jax.replay.setting import config_of, open_setting
from clac_jax.replay.usage import blame


def test_every_example_is_used_once_per_epoch_where_its_batch_says(run):
    history = read_history(str(run))
    data = open_setting(history.config_of(1)).data
    losses = {row["step"]: row["loss"] for row in history.rows if row["split"] == "train"}
    for index in range(3):
        (use,) = blame(history, str(index)).uses
        step = data.step_examples(0, use.place - use.slot)
        assert step.reshape(-1)[use.slot] == index
        assert (use.epoch, use.place) == (0, (use.step - 1) * BATCH + use.slot)
        assert use.loss == pytest.approx(losses[use.step])
        assert use.before == (None if use.step == 1 else pytest.approx(losses[use.step - 1]))
        assert use.after == (
            None if use.step == STEPS_PER_EPOCH else pytest.approx(losses[use.step + 1])
        )


def test_an_example_is_named_by_its_id_or_its_number(run):
    history = read_history(str(run))
    by_number = blame(history, "7")
    assert blame(history, by_number.example).uses == by_number.uses
    assert by_number.example in by_number.lines()[0]
    assert by_number.to_json()["uses"][0]["step"] == by_number.uses[0].step
    for unknown in ("16", "mp-none"):
        with pytest.raises(ReplayError, match=f"--example {unknown} is not in the data"):
            blame(history, unknown)


def test_an_example_that_is_left_out_is_not_used(run):
    history = read_history(str(run))
    (start,), (use,) = history.starts, blame(history, "2").uses
    dataset = {**start.config["dataset"], "skip": [2]}
    skipping = dataclasses.replace(start, config={**start.config, "dataset": dataset})
    assert blame(dataclasses.replace(history, starts=[skipping]), "2").uses == []
    data = open_setting(history.config_of(1)).fingerprints["train"]
    place = use.place - use.slot
    for first, uses in ((place + BATCH, [use]), (place, [])):  # from the step after it, and from it
        healed = Action("skip", use.step, "", 0, 0, first, (2,), ("",), 1.0, data)
        events = [*history.journal.events, {"event": HEALED, **healed.to_json()}]
        journal = dataclasses.replace(history.journal, events=events)
        assert blame(dataclasses.replace(history, journal=journal), "2").uses == uses


def started_again(history, number, first, second):
    """The history of a run with another start after a number of steps, at the end of an epoch.

    Args:
        history: that of a run with one start.
        number: the number of steps; those after it are of epoch 1.
        first: changes to the config before, nested.
        second: changes to the config after.
    """
    (start,) = history.starts
    starts = []
    for step, changes in ((0, first), (number, second)):
        dataset = {**start.config["dataset"], **changes.get("dataset", {})}
        config = {**start.config, **changes, "dataset": dataset}
        data = Splits(config_of(config, "run").dataset).fingerprint("train")
        facts = {**start.facts, "data": {"train": data}}
        starts.append(dataclasses.replace(start, step=step, config=config, facts=facts))
    steps = history.journal.steps.copy()
    steps["epoch"][number:] = 1
    journal = dataclasses.replace(history.journal, steps=steps)
    return dataclasses.replace(history, starts=starts, journal=journal)


@pytest.mark.parametrize(
    ("number", "first", "second"),
    [
        (1, {"batch_size": 12}, {"batch_size": 4}),  # which fits into what the first left
        (2, {"batch_size": 8}, {"seed": 7}),
        (3, {"dataset": {"max_examples": 12}}, {}),
        (3, {}, {"dataset": {"max_examples": 12}}),
    ],
)
def test_a_start_with_another_config_after_an_epoch_begins_the_next_one(run, number, first, second):
    history = started_again(read_history(str(run)), number, first, second)
    expected = {}
    for step in range(1, STEPS_PER_EPOCH + 1):
        config = history.config_of(step)
        records = Splits(config.dataset)["train"]
        order = epoch_order(config.seed, int(step > number), len(records), None)
        done = config.batch_size * (step - 1 - history.start_of(step).step)
        for index in order[done : done + config.batch_size]:
            expected.setdefault(records[int(index)].material_id, []).append(step)
    # An id may be only in the data of the first start.
    used = [Splits(history.config_of(step).dataset)["train"] for step in (1, STEPS_PER_EPOCH)]
    records = max(used, key=len)
    for name in [records[number].material_id for number in range(0, len(records), 3)]:
        assert [use.step for use in blame(history, name).uses] == expected.get(name, []), name


def test_other_data_are_refused(run):
    history = read_history(str(run))
    (start,) = history.starts
    other = dataclasses.replace(start, facts={**start.facts, "data": {"train": "0" * 32}})
    with pytest.raises(ReplayError, match=r"The training data of .* have changed since"):
        blame(dataclasses.replace(history, starts=[other]), "0")


@pytest.mark.slow
def test_starts_with_other_batch_sizes_are_followed(storied, tmp_path):
    history = read_history(str(storied))
    replayer = Replayer(history, tmp_path)
    used = {step: set() for step in range(1, history.last_step + 1)}
    for index in range(STEPS_PER_EPOCH * BATCH):
        for use in blame(history, str(index)).uses:
            used[use.step].add(index)
    replayer.go_to(1)
    for step, indices in used.items():
        batch = replayer.take_batch()
        assert set(np.unique(np.asarray(batch.example_index)).tolist()) == indices, step
        replayer.do(batch)
