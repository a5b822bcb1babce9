"""Differences of config and data between a resumed run and its checkpoint, and their effects."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import ml_collections

from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.yardstick import unlike
from clac_jax.config import schema as config_lib
from clac_jax.config.run import all_keys
from clac_jax.errors import counted
from clac_jax.training.progress import RunProgress

# The keys that decide which examples a run without fingerprints was trained on.
_DATA_KEYS = ("dataset.name", "dataset.path", "dataset.split_by", "task", "property.name")


@dataclass(frozen=True)
class Present:
    """The run that resumes, as configured now.

    Attributes:
        config: the run's config.
        num_train_examples: size of its training split.
        data: split name -> fingerprint of its data; {} if unknown.
    """

    config: ml_collections.ConfigDict
    num_train_examples: int
    data: Mapping[str, str] = field(default_factory=dict)


def describe_changes(
    info: CheckpointInfo, now: Present, progress: RunProgress, is_own: bool = True
) -> list[str]:
    """One line per key that differs from the checkpoint's config: then, now, and the effect.

    Args:
        info: description of the checkpoint.
        now: the run that resumes.
        progress: position at which it resumes.
        is_own: whether the checkpoint is in the run's own workdir.
    """
    lines = []
    # A key that is newer than the checkpoint had its default value.
    saved = config_lib.with_defaults(info.config)
    same_data = bool(now.data) and dict(info.data) == dict(now.data)
    present = config_lib.with_defaults(config_lib.to_plain(now.config))
    for key, then, value in config_lib.differences(saved, present):
        if key.startswith(("distributed.", "bucket.")):  # where, not what, they compute
            continue
        effect = effect_of(key)
        if key == "replace_formula_start_epoch" and value is not None:
            active = progress.epoch >= value
            from_when = "from here on" if active else f"from epoch {value}"
            effect = f"formulas are replaced {from_when}"
        elif key.startswith("dataset.") and key != "dataset.text_source" and same_data:
            effect = "the same examples"
        elif key in ("resume_from", "restore.sources") and value and is_own:
            effect = "not used: the workdir has its own checkpoints"
        elif key.startswith("restore.") and is_own:
            effect = "used only if the run's own checkpoint does not fit the model"
        lines.append(f"{key}: {then!r} -> {value!r}" + (f" ({effect})" if effect else ""))
    return lines


def effect_of(key: str) -> str:
    """The effect of changing a config key on a run that resumes; "" if it is obvious."""
    declaration = all_keys().get(key)
    if declaration is None:
        return "a key that this version does not have; it has no effect"
    return declaration.on_change or ""


def carried_over(
    progress: RunProgress,
    info: CheckpointInfo,
    now: Present,
    is_own: bool,
    parts: Collection[str],
) -> tuple[RunProgress, list[str]]:
    """Where a run resumes, and one line per piece of its progress that no longer applies.

    Args:
        progress: position of the checkpoint, or of the end of its run.
        info: description of the checkpoint.
        now: the run that resumes.
        is_own: whether the checkpoint is in the run's own workdir.
        parts: parts of the checkpoint that are restored.
    """
    if "progress" not in parts:
        return RunProgress(), ["restore.parts leaves out progress: starts at step 0, epoch 0"]
    notes = []
    if now.config.schedule != "plateau":
        progress = progress.without_plateau()
    if why := _why_incomparable(info, now):
        remembered = (progress.best_value if is_own else None, progress.plateau_best)
        if remembered != (None, None):
            notes.append(f"the best value so far was {why} and is forgotten")
        progress = progress.without_best().without_plateau_memory()
    if not is_own:
        progress = progress.without_best()  # this run has its own best
    other_data = not _same_training_data(info, now)
    reason = "the order of the data is different" if _other_order(info, now) else ""
    if other_data:
        counts = info.num_train_examples, now.num_train_examples
        numbers = ""
        if counts[0] != counts[1]:
            numbers = f" ({counted(counts[0], 'example')}, now {counts[1]:,})"
        reason = f"the training data are not those of the checkpoint{numbers}"
    if not progress.examples_in_epoch:
        return progress, [*notes, reason] if other_data else notes
    if reason and _is_trained(progress, info):
        progress = dataclasses.replace(progress, examples_in_epoch=now.num_train_examples)
        notes.append(f"{reason}: epoch {progress.epoch} is trained, its validation comes next")
    elif reason:
        progress = dataclasses.replace(progress, examples_in_epoch=0)
        notes.append(f"{reason}: epoch {progress.epoch} starts over")
    return progress, notes


def _why_incomparable(info: CheckpointInfo, now: Present) -> str:
    """Why the checkpoint's monitored values are not comparable with the run's; "" if they are."""
    config = config_lib.to_plain(now.config)
    monitors = [
        tree["checkpoint"][key] for tree in (info.config, config) for key in ("monitor", "mode")
    ]
    if monitors[:2] != monitors[2:]:
        return "of a different metric"
    differences = unlike((info.config, info.data), (config, now.data))
    return f"measured with {', '.join(differences)}" if differences else ""


def _same_training_data(info: CheckpointInfo, now: Present) -> bool:
    then_flat, now_flat = (
        config_lib.flatten(tree)
        for tree in (config_lib.with_defaults(info.config), config_lib.to_plain(now.config))
    )
    keys = ["dataset.text_source"]
    fingerprints = info.data.get("train", ""), now.data.get("train", "")
    if not all(fingerprints):
        keys += _DATA_KEYS
    elif fingerprints[0] != fingerprints[1]:
        return False
    same_keys = all(bool(then_flat[key] == now_flat[key]) for key in keys)
    return same_keys and info.num_train_examples in (0, now.num_train_examples)


def _other_order(info: CheckpointInfo, now: Present) -> bool:
    saved = config_lib.with_defaults(info.config)
    then = saved["seed"], saved["input"]["group_by"]
    return then != (now.config.seed, now.config.input.group_by)


def _is_trained(progress: RunProgress, info: CheckpointInfo) -> bool:
    """Whether only the validation of the checkpoint's epoch remained to be done."""
    step: int = info.config["batch_size"] * info.config["accumulate_steps"]
    return info.num_train_examples - progress.examples_in_epoch < step
