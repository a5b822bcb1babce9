"""What a config that differs from the checkpoint's means for the run that goes on."""

from __future__ import annotations

import re

import ml_collections

from clac_jax import config as config_lib
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.progress import RunProgress

# The first pattern that matches a changed key says what the change does.
_EFFECTS: tuple[tuple[str, str], ...] = (
    (r"max_epochs", "the run and its schedule now end after that epoch"),
    (
        r"learning_rate|schedule.*|warmup_steps|min_learning_rate|(cosine|one_cycle)\..*"
        r"|optimizer\.learning_rate_factors",
        "the config's schedule holds from the next step",
    ),
    (
        r"batch_size|accumulate_steps",
        "the position in the epoch is kept in examples; the steps left are counted anew",
    ),
    (
        r"optimizer\.name",
        "parameters, step and epoch are kept; optimizer state only where both have it",
    ),
    (r"optimizer\..*|weight_decay|gradient_clip", "holds from the next step"),
    (r"loss\.(margin|prior_weight)", "holds from the next step"),
    (r"remat|gradient_cache_chunks", "the same step, in more or less memory and time"),
    (r"frozen", "holds from the next step; newly trained parameters start without moments"),
    (r"replace_formula_start_epoch", "formulas are replaced from that epoch on"),
    (
        r"replace_formula_prob|augment\..*|dataset\.text_source|text_encoder\.max_length",
        "holds for every example from the next one",
    ),
    (
        r"seed",
        "the data follow the new seed; the key of dropout is the checkpoint's, unless "
        "restore.parts leaves it out",
    ),
    (r"task|property\..*", "another model and other labels; see restore below"),
    (
        r"dataset\.(on_bad_row|on_formula_mismatch|data_dir)",
        "the same examples, if the data are the same",
    ),
    (r"dataset\..*|debug", "other examples"),
    (r"input\.group_by", "the examples come in another order"),
    (
        r"(graph_encoder|text_encoder|loss)\..*|projection_dim|logit_.*_init|use_.*_loss|lm_weight",
        "the model is another one; see restore below",
    ),
    (r"checkpoint\.(monitor|mode)", "the best checkpoints are chosen anew"),
    (r"plateau\..*|early_stopping_patience", "holds from the next validation"),
    (r"eval_batch_size", "in-batch accuracies are no longer comparable with earlier rows"),
    (r"deterministic|parallel|sharding\..*", "the same numbers up to rounding"),
    (r"(checkpoint|restore|logging|input)\..*|resume.*|compilation_cache|log_every.*", ""),
)


def describe_changes(
    info: CheckpointInfo, config: ml_collections.ConfigDict, progress: RunProgress
) -> list[str]:
    """One line for each key that differs from the checkpoint's config: then, now, and the effect.

    Args:
        info: of the checkpoint.
        config: of the run that goes on.
        progress: where it goes on.
    """
    lines = []
    # A key that is newer than the checkpoint had its default in effect.
    saved = config_lib.with_defaults(info.config)
    for key, then, now in config_lib.differences(saved, config.to_dict()):
        if key.startswith("distributed."):  # where the processes are, not what they compute
            continue
        effect = _effect(key)
        if key == "replace_formula_start_epoch" and now is not None:
            active = progress.epoch >= now
            effect = "formulas are replaced " + ("from here on" if active else f"from epoch {now}")
        lines.append(f"{key}: {then!r} -> {now!r}" + (f" ({effect})" if effect else ""))
    return lines


def keeps_position(
    info: CheckpointInfo, config: ml_collections.ConfigDict, num_train_examples: int
) -> bool:
    """Whether a position in the epoch means the same examples as in the checkpoint's run."""
    return (
        info.config["seed"] == config.seed
        and info.config["input"].get("group_by", "none") == config.input.group_by
        and info.num_train_examples == num_train_examples
    )


def _effect(key: str) -> str:
    return next(
        (effect for pattern, effect in _EFFECTS if re.fullmatch(pattern, key)),
        "holds from the next step",
    )
