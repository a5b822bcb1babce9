"""Config keys for checkpoints, resuming and logs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clac_jax.config.effects import BEST_AGAIN, NEXT_SAVE, NEXT_SAVE_WRITES, PLAIN
from clac_jax.config.key import key
from clac_jax.errors import one_line

# Validation measures that `checkpoint.monitor` may name.
MONITORS = (
    "val_loss",
    "val_acc_top1",
    "val_acc_top3",
    *(
        f"{direction}_top{k}"
        for direction in ("text_to_crystal", "crystal_to_text")
        for k in (1, 3, 10)
    ),
)
PROPERTY_MONITORS = {
    "regression": ("val_loss", "val_mae"),
    "classification": ("val_loss", "val_accuracy"),
}
RESTORE_PARTS = ("params", "batch_stats", "opt_state", "key", "progress")


MERGED_PARTS = ("params", "batch_stats")
"""The parts taken from a member of `restore.sources` without `parts`."""

SOLE_PARTS = ("key", "progress")
"""The parts that only one source can give."""

SOURCE_MEMBERS = ("from", "parts", "only", "rules")


def wrong_rules(rules: Any) -> str:
    """The problem with `restore.rules`; "" if they are valid."""
    if not isinstance(rules, tuple | list):
        return f"It is {one_line(repr(rules))}, and must be a tuple of rules."
    for rule in rules:
        is_sequence = isinstance(rule, tuple | list) and len(rule) in (2, 3)
        if not is_sequence or not isinstance(rule[0], str) or not _is_replacement(rule):
            return (
                f"It has {one_line(repr(rule))}. Each rule is a pair of a regular expression and "
                "its replacement, or None: (('old/(.*)', r'new/\\1'),); or it has a transform as "
                "its third member: ('(.*)/weight', r'\\1/kernel', 'transpose')."
            )
    return ""


def _is_replacement(rule: Any) -> bool:
    new = rule[1]
    is_names = isinstance(new, tuple | list) and new and all(isinstance(n, str) for n in new)
    if len(rule) == 2:
        return new is None or isinstance(new, str)
    return (isinstance(new, str) or bool(is_names)) and isinstance(rule[2], str)


def wrong_sources(sources: Any) -> str:
    """The problem with `restore.sources`; "" if they are valid."""
    sole: dict[str, str] = {}
    for number, source in enumerate(sources, start=1):
        if not isinstance(source, Mapping) or not _is_name(source.get("from")):
            return (
                f"Source {number} is {one_line(repr(source))}. Each is a dict that names a "
                "checkpoint: ({'from': 'outputs/a@best', 'only': 'text_encoder/.*'},)."
            )
        name = source["from"]
        if unknown := [each for each in source if each not in SOURCE_MEMBERS]:
            return (
                f"Source {number}, {name!r}, has the member {one_line(repr(unknown[0]))}. It can "
                f"have {', '.join(SOURCE_MEMBERS)}."
            )
        parts = source.get("parts", MERGED_PARTS)
        if not isinstance(parts, tuple | list) or not set(parts) <= set(RESTORE_PARTS):
            return (
                f"The parts of source {number}, {name!r}, are {one_line(repr(parts))}. They can be "
                f"{', '.join(RESTORE_PARTS)}."
            )
        if "opt_state" in parts and "params" not in parts:
            return (
                f"Source {number}, {name!r}, gives opt_state without params, and the moments of "
                "other parameters would mislead the optimizer. Add params or leave out opt_state."
            )
        for part in SOLE_PARTS:
            if part in parts and part in sole:
                return (
                    f"{part} comes from {sole[part]!r} and from {name!r}, and a run has only one. "
                    "Leave it out of the parts of one of them."
                )
            if part in parts:
                sole[part] = name
        if not isinstance(source.get("only", ""), str):
            return f"The member only of source {number}, {name!r}, is not a regular expression."
        if problem := wrong_rules(source.get("rules", ())):
            return f"The rules of source {number}, {name!r}, cannot be used. {problem}"
    return ""


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


@dataclass(frozen=True)
class Checkpoint:
    """The config group `config.checkpoint`."""

    save_top_k: int = key(
        2,
        "best checkpoints that are kept besides the last, by `monitor`; -1 keeps all",
        low=-1,
        on_change=NEXT_SAVE,
    )
    monitor: str = key(
        "val_loss",
        "the metric of a validation that decides which checkpoint is best",
        choices=tuple(dict.fromkeys((*MONITORS, *sum(PROPERTY_MONITORS.values(), ())))),
        on_change=BEST_AGAIN,
    )
    mode: str = key(
        "min",
        "whether a smaller or a larger value of `monitor` is better",
        choices=("min", "max"),
        on_change=BEST_AGAIN,
    )
    save_last: bool = key(
        True,
        "whether the last checkpoint stays after the end of the run even if it is not among the "
        "best",
        on_change=NEXT_SAVE,
    )
    keep_every_n_steps: int = key(
        0,
        "checkpoints at multiples of this step are saved and never removed; 0: none",
        low=0,
        on_change=NEXT_SAVE,
    )
    keep_every_hours: float = key(
        0.0,
        "the first checkpoint after each multiple of this time of training, in hours, is never "
        "removed; 0: none",
        low=0.0,
        on_change=NEXT_SAVE,
    )
    every_n_epochs: int = key(1, "epochs between saves; the run's end is always saved", low=1)
    every_n_steps: int = key(0, "steps between further saves; 0: not by steps", low=0)
    every_n_minutes: float = key(0.0, "minutes since the last save; 0: not by time", low=0.0)
    async_save: bool = key(True, "whether training continues while a checkpoint is written")
    retries: int = key(3, "further attempts after a save has failed", low=0)
    retry_seconds: float = key(
        2.0, "time before the first of them, doubled before each further one", low=0.0
    )
    share: bool = key(
        True,
        "whether arrays that have not changed are stored once: a save links files of an earlier "
        "checkpoint; False: every checkpoint has files of its own",
        on_change=NEXT_SAVE_WRITES,
    )
    store: str = key(
        "",
        "folder through which several runs share the files of equal arrays; it must be on the file "
        'system of the workdirs; "": each run shares only its own',
        is_path=True,
        local_only="files are linked to it",
        per_process=True,
        may_be_empty=True,
        used_with="checkpoint.share=True",
        on_change=NEXT_SAVE_WRITES,
    )
    on_failure: str = key(
        "stop",
        "what the run does when all retries have failed",
        choices=("stop", "continue"),
    )


@dataclass(frozen=True)
class Restore:
    """The config group `config.restore`."""

    parts: tuple[str, ...] = key(
        RESTORE_PARTS, "what is taken from the other run's checkpoint", choices=RESTORE_PARTS
    )
    strict: bool = key(True, "whether a parameter that only one side has is an error")
    rules: tuple[tuple[Any, ...], ...] = key(
        (),
        "((regex, replacement or None), ...) on parameter paths: renames, or leaves out; a third "
        "member is a transform",
        check=wrong_rules,
    )
    sources: tuple[dict[str, Any], ...] = key(
        (),
        "several sources to start from, instead of resume_from: ({'from': name, 'parts': ..., "
        "'only': regex, 'rules': ...}, ...); the first that has an array gives it",
        check=wrong_sources,
    )
    on_shape_mismatch: str = key(
        "error",
        "an array of a different shape stops the run, starts from scratch, keeps the common slice, "
        "or the model grows and computes what it did",
        choices=("error", "skip", "overlap", "grow"),
    )


@dataclass(frozen=True)
class Logging:
    """The config group `config.logging`."""

    tensorboard: bool = key(True, "whether TensorBoard's event files are written")
    wandb: bool = key(False, "whether the run is sent to Weights & Biases")
    wandb_project: str = key(
        "clac_jax", "project of Weights & Biases", used_with="logging.wandb=True", on_change=PLAIN
    )


@dataclass(frozen=True)
class Journal:
    """The config group `config.journal`."""

    digest_every: int = key(
        1,
        "steps between digests of the state; those of the loss, the gradient and the batch are "
        "recorded at every step; 0: none of them",
        low=0,
    )


@dataclass(frozen=True)
class Bucket:
    """The config group `config.bucket`."""

    scratch: str = key(
        "",
        'folder for local copies of workdirs in buckets; "": the user\'s cache ($CLAC_JAX_CACHE, '
        "or ~/.cache/clac_jax)",
        is_path=True,
        local_only="it holds copies of what is in a bucket",
        may_be_empty=True,
    )
    lease_seconds: float = key(
        60.0,
        "time after which another machine may take the workdir of a run that has died",
        low=1.0,
    )
    max_mb_per_second: float = key(0.0, "limit of uploads and downloads; 0: none", low=0.0)
    patience_minutes: float = key(
        30.0,
        "time for which the end of a run, and the start of one under `clac-jax run`, waits for a "
        "bucket that cannot be reached",
        low=0.0,
    )
