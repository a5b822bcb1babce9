"""Every step in which an example was used, and what the loss did."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clac_jax.checkpoint.changes import Present
from clac_jax.healing.actions import actions_in, gaps_of
from clac_jax.input_pipeline.order import epoch_order
from clac_jax.input_pipeline.run_data import order_groups
from clac_jax.input_pipeline.splits import Splits
from clac_jax.replay.errors import ReplayError
from clac_jax.replay.history import History, Start
from clac_jax.replay.parent_run import origin_of, position_after
from clac_jax.replay.report import aligned, as_plain, robust_deviations
from clac_jax.replay.setting import config_of

NEIGHBOURS = 50
"""Steps before and after, with whose losses that of a step is compared."""


@dataclass(frozen=True)
class Use:
    """A step in which an example was used.

    Attributes:
        step: its number.
        epoch: its epoch.
        place: place of the example in the order of the epoch, from 0.
        slot: its place within the step.
        loss: loss of the step; None if it is not recorded.
        before: loss of the step before it; None as well.
        after: loss of the step after it.
        deviations: robust standard deviations of `loss` above the median of the steps around it.
        grad_norm: norm of the gradient of the step.
    """

    step: int
    epoch: int
    place: int
    slot: int
    loss: float | None
    before: float | None
    after: float | None
    deviations: float | None
    grad_norm: float | None


@dataclass(frozen=True)
class Blame:
    """An example in a run.

    Attributes:
        run: the run.
        example: its id.
        formula: its formula.
        index: its number in the training split of the newest start that has it.
        uses: the steps in which it was used.
    """

    run: str
    example: str
    formula: str
    index: int
    uses: list[Use]

    def lines(self) -> list[str]:
        """The example in words."""
        head = (
            f"example   {self.example}  {self.formula}, number {self.index} of the training split: "
            f"used in {len(self.uses):,} steps of {self.run}"
        )
        if not self.uses:
            return [head]
        names = ["step", "epoch", "place", "slot", "loss before", "loss", "after", "deviations"]
        rows = [[*names, "gradient norm"]]
        for use in self.uses:
            numbers = (use.before, use.loss, use.after)
            rows.append(
                [
                    *map(str, (use.step, use.epoch, use.place, use.slot)),
                    *map(_shown, numbers),
                    "" if use.deviations is None else f"{use.deviations:+.1f}",
                    _shown(use.grad_norm),
                ]
            )
        return [head, *aligned(rows)]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        plain: dict[str, Any] = as_plain(asdict(self))
        return plain


def blame(history: History, example: str) -> Blame:
    """Finds the steps in which an example was used, by the order of each epoch.

    Args:
        history: what the run has recorded.
        example: id in the data set, or number in the training split.

    Raises:
        ReplayError: the data have no such example, or are not those of the run.
        UserError: the data cannot be opened.
    """
    opened: dict[str, Splits] = {}
    splits, index = _find_in_run(history, example, opened)
    record = splits["train"][index]
    numbers: dict[str, int | None] = {splits.fingerprint("train"): index}
    losses, norms = _curves(history)
    places = _places(history, record.material_id, numbers, opened)
    uses = [_use(place, losses, norms) for place in places]
    return Blame(history.name, record.material_id, record.formula, index, uses)


def _find_in_run(history: History, example: str, opened: dict[str, Splits]) -> tuple[Splits, int]:
    """The newest data of the run that have an example in training, and its number there.

    A number counts in the data of the newest start. An id may be only in the data of an earlier
    one, for instance because the example has been removed since.
    """
    newest = _splits(history, history.starts[-1], opened)
    try:
        return newest, find_example(newest, example)
    except ReplayError:
        for start in reversed(history.starts[:-1]):
            earlier = _splits(history, start, opened)
            if (number := _number_of(example, earlier)) is not None:
                return earlier, number
        raise


def find_example(splits: Splits, example: str) -> int:
    """The number of an example in the training split.

    Raises:
        ReplayError: there is none with this id or number.
    """
    records = splits["train"]
    if (number := _number_of(example, splits)) is not None:
        return number
    if example.isdecimal() and int(example) < len(records):
        return int(example)
    for split in ("validation", "test"):
        others = splits[split]
        if any(others[k].material_id == example for k in range(len(others))):
            raise ReplayError(
                f"--example {example} is in the {split} split, which no step uses. Name an example "
                "of the training split."
            )
    raise ReplayError(
        f"--example {example} is not in the data of the run. Name the id of one of its "
        f"{len(records):,} training examples, or a number from 0 to {len(records) - 1:,}."
    )


def _number_of(example: str, splits: Splits) -> int | None:
    records = splits["train"]
    matching = (index for index in range(len(records)) if records[index].material_id == example)
    return next(matching, None)


@dataclass(frozen=True)
class _Place:
    step: int
    epoch: int
    place: int
    slot: int


def _places(
    history: History, example: str, numbers: dict[str, int | None], opened: dict[str, Splits]
) -> Iterator[_Place]:
    """Walks through the steps of a run as training did, one start after the other.

    Args:
        history: what the run has recorded.
        example: id of the example.
        numbers: fingerprint of a training split -> number of the example there, or None; extended.
        opened: the splits that have been opened; extended.
    """
    starts = list(history.starts)
    ends = [start.step for start in starts[1:]] + [history.last_step]
    epoch = done = 0
    previous: tuple[Any, ...] | None = None
    for start, end in zip(starts, ends, strict=True):
        config = config_of(start.config, history.name)
        splits = _splits(history, start, opened)
        groups, size = order_groups(config, splits), splits.sizes["train"]
        per_step = config.batch_size * config.accumulate_steps
        data = splits.fingerprint("train")
        if data not in numbers:  # other data have other numbers, or lack the example
            numbers[data] = _number_of(example, splits)
        index = numbers[data]
        order_key = (config.seed, config.input.group_by, config.dataset.text_source, data)
        if previous is not None and previous != order_key:
            done = 0  # an epoch under way starts over
        previous = order_key
        if start is starts[0] and start.step:
            fingerprints = {split: splits.fingerprint(split) for split in splits.sizes}
            epoch, done = _position(history, Present(config, size, fingerprints))
        # Whether an epoch was over depends on the batch size of the start before, and a validation.
        if (recorded := _epoch_after(history, start.step)) not in (None, epoch):
            epoch, done = recorded, 0
        step = start.step
        gaps = gaps_of(each for each in actions_in(history.journal.events) if each.data == data)
        while step < end:
            if size - done < per_step:
                epoch, done = epoch + 1, 0
            left = min((size - done) // per_step, end - step)
            if index is not None:
                order = epoch_order(config.seed, epoch, size, groups)
                place = int(np.flatnonzero(order == index)[0])
                offset = place - done
                skipped = index in config.dataset.skip or any(
                    index in gap.examples and (epoch, place) >= (gap.epoch, gap.start)
                    for gap in gaps
                )
                if 0 <= offset < left * per_step and not skipped:
                    yield _Place(step + 1 + offset // per_step, epoch, place, offset % per_step)
            step, done = step + left, done + left * per_step


def _epoch_after(history: History, step: int) -> int | None:
    """The epoch of the step after some steps; None if neither journal nor checkpoint has it."""
    if (record := history.journal.at(step + 1)) is not None:
        return record.epoch
    return history.checkpoints[step].progress.epoch if step in history.checkpoints else None


def _position(history: History, now: Present) -> tuple[int, int]:
    """Epoch and examples done of it at the first start, before which nothing is recorded."""
    step = history.starts[0].step
    if step in history.checkpoints:
        progress = history.checkpoints[step].progress
        return progress.epoch, progress.examples_in_epoch
    if (origin := origin_of(history)) is not None:
        progress = position_after(origin, now)
        return progress.epoch, progress.examples_in_epoch
    raise ReplayError(
        f"The journal of {history.name} begins at step {step + 1:,}, and no checkpoint of step "
        f"{step:,} is left to know its place in the data. Put that checkpoint back."
    )


def _splits(history: History, start: Start, opened: dict[str, Splits]) -> Splits:
    """The data of a start; nothing but the records is opened.

    Args:
        history: what the run has recorded.
        start: the start.
        opened: the data that were opened before, by their config.

    Raises:
        ReplayError: they are not those that it had.
    """
    config = config_of(start.config, history.name)
    label = config.property.name if config.task == "property" else ""
    key = f"{label} {config.dataset.to_json()}"
    if key not in opened:
        opened[key] = Splits(config.dataset, label)
    splits = opened[key]
    history.check_data(start, splits.fingerprint("train"))
    return splits


def _curves(history: History) -> tuple[dict[int, float], dict[int, float]]:
    """Step -> loss, and step -> norm of the gradient, by the journal or the logged rows."""
    rows = [row for row in history.rows if row["split"] == "train"]
    losses = {row["step"]: float(row["loss"]) for row in rows if "loss" in row}
    norms = {row["step"]: float(row["grad_norm"]) for row in rows if "grad_norm" in row}
    steps = history.journal.steps
    numbers = steps["step"].tolist()
    losses |= dict(zip(numbers, steps["loss"].tolist(), strict=True))
    norms |= dict(zip(numbers, steps["grad_norm"].tolist(), strict=True))
    return losses, norms


def _use(place: _Place, losses: dict[int, float], norms: dict[int, float]) -> Use:
    step, loss = place.step, losses.get(place.step)
    deviations = None
    if loss is not None:
        around = range(step - NEIGHBOURS, step + NEIGHBOURS + 1)
        others = [losses[each] for each in around if each != step and each in losses]
        deviations = robust_deviations([loss], others)[0]
    return Use(
        step=step,
        epoch=place.epoch,
        place=place.place,
        slot=place.slot,
        loss=loss,
        before=losses.get(step - 1),
        after=losses.get(step + 1),
        deviations=None if deviations is None or math.isnan(deviations) else deviations,
        grad_norm=norms.get(step),
    )


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
