"""The checks on a run's config."""

from __future__ import annotations

import difflib
from typing import Any

import ml_collections

from clac_jax.config.schema import (
    MONITORS,
    PROPERTY_MONITORS,
    RESTORE_PARTS,
    TOWERS,
    default_config,
)
from clac_jax.errors import ConfigError, one_line
from clac_jax.files.paths import check_local

DEBUG_EXAMPLES = 64


def ready(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy to run with: checked, references resolved, `debug` turned into what it stands for.

    Raises:
        ConfigError: see `validate`.
    """
    validate(config)
    config = config.copy_and_resolve_references()
    if config.debug:
        config.max_epochs = 1
        config.dataset.max_examples = config.dataset.max_examples or DEBUG_EXAMPLES
    return config


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks that a config has exactly the known keys and that the values make sense together.

    Raises:
        ConfigError: naming the key, the value and what is allowed.
    """
    _check_keys(config, default_config(), prefix="")
    _check_choice(
        config, "schedule", ("constant", "cosine", "cosine_restarts", "one_cycle", "plateau")
    )
    _check_choice(config, "precision", ("float32", "bfloat16"))
    _check_choice(config, "task", ("contrastive", "property"))
    _check_choice(config, "parallel", ("pmap", "shard_map"))
    _check_choice(config, "sharding.what", ("nothing", "optimizer", "everything"))
    if config.sharding.what != "nothing" and config.parallel != "shard_map":
        raise ConfigError(
            f'Config key "sharding.what" is {config.sharding.what!r}, and pmap keeps everything on '
            "every device. Set parallel=shard_map."
        )
    _check_choice(config, "property.kind", tuple(PROPERTY_MONITORS))
    is_property = config.task == "property"
    monitors = PROPERTY_MONITORS[config.property.kind] if is_property else MONITORS
    _check_choice(config, "checkpoint.monitor", monitors)
    _check_choice(config, "schedule_unit", ("step", "epoch"))
    _check_choice(config, "checkpoint.mode", ("min", "max"))
    _check_choice(config, "checkpoint.on_failure", ("stop", "continue"))
    _check_choice(config, "resume", ("auto", "must", "never"))
    _check_choice(config, "restore.on_shape_mismatch", ("error", "skip", "overlap"))
    _check_choice(config, "optimizer.name", ("adam", "adamw", "sgd", "lion"))
    _check_choice(config, "graph_encoder.name", ("painn", "cgcnn", "orb", "composition"))
    _check_choice(config, "text_encoder.config.model_type", ("bert", "opt", "gpt2", "gemma3_text"))
    _check_choice(config, "text_encoder.feature", ("first", "last", "mean", "attention"))
    _check_choice(config, "loss.name", ("infonce", "cosface", "siglip", "jsd"))
    _check_choice(config, "loss.critic", ("dot", "concat", "condot", "dotcon"))
    _check_choice(config, "augment.perturb_law", ("bounded", "legacy"))
    _check_choice(config, "augment.strain_law", ("axial", "isotropic", "shear"))
    _check_choice(config, "input.group_by", ("none", "formula", "elements"))
    _check_choice(config, "dataset.on_bad_row", ("error", "skip"))
    _check_choice(config, "dataset.on_formula_mismatch", ("refuse", "take"))
    _check_choice(config, "dataset.split_by", ("row", "formula"))
    _check_choice(config, "dataset.text_source", ("narratives", "papers"))
    for key in (
        "max_epochs",
        "batch_size",
        "accumulate_steps",
        "gradient_cache_chunks",
        "eval_batch_size",
        "log_every_n_steps",
        "text_encoder.max_length",
        "checkpoint.every_n_epochs",
        "distributed.connect_seconds",
        "distributed.failure_seconds",
    ):
        _check_range(config, key, low=1)
    for key in (
        "replace_formula_prob",
        "augment.sentence_keep_prob",
        "augment.mask_prob",
        "plateau.factor",
        "augment.max_strain",
        "one_cycle.rise",
        "loss.prior_weight",
    ):
        _check_range(config, key, low=0.0, high=1.0)
    for key in (
        "learning_rate",
        "weight_decay",
        "gradient_clip",
        "warmup_steps",
        "lm_weight",
        "loss.margin",
        "early_stopping_patience",
        "plateau.patience",
        "cosine.epochs",
        "one_cycle.start_factor",
        "one_cycle.end_factor",
        "dataset.max_examples",
        "checkpoint.keep_every_n_steps",
        "checkpoint.every_n_steps",
        "checkpoint.every_n_minutes",
        "checkpoint.retries",
        "checkpoint.retry_seconds",
        "input.num_threads",
    ):
        _check_range(config, key, low=0)
    _check_range(config, "augment.max_compression", low=0.0, high=0.5)
    if config.text_encoder.num_layers is not None:
        _check_range(config, "text_encoder.num_layers", low=1)
    _check_range(config, "checkpoint.save_top_k", low=-1)
    _check_range(config, "cosine.factor", low=1)
    if config.schedule == "cosine_restarts" and not config.cosine.epochs:
        raise ConfigError(
            'Config key "cosine.epochs" is 0, and the schedule "cosine_restarts" needs the length '
            "of its first period. The reference's is 10."
        )
    if config.graph_encoder.pretrained is not None and config.graph_encoder.name != "orb":
        raise ConfigError(
            f'Config key "graph_encoder.pretrained" names a file of orb-models, and the encoder is '
            f"{config.graph_encoder.name}. Set graph_encoder.name=orb, or leave the file out; "
            "weights of this project come by resume_from."
        )
    _check_memory(config)
    _check_restore(config)
    _check_paths(config)
    if config.batch_size < 2:
        raise ConfigError(
            "batch_size is 1, and one pair has nothing to be contrasted with. Use 2 or more."
        )


def _check_paths(config: ml_collections.ConfigDict) -> None:
    """Every key that names a file or folder: no URL, nothing that no file can be called.

    Raises:
        PathError: naming the key.
    """
    for key in ("resume_from", "compilation_cache"):
        if _get(config, key):  # may be empty, which means none
            check_local(_get(config, key), f'Config key "{key}"')
    for key in (
        "dataset.data_dir",
        "dataset.path",
        "text_encoder.pretrained",
        "text_encoder.tokenizer",
        "graph_encoder.pretrained",
    ):
        if _get(config, key) is not None:
            check_local(_get(config, key), f'Config key "{key}"')


def _check_memory(config: ml_collections.ConfigDict) -> None:
    for tower in config.remat:
        if tower not in TOWERS:
            raise ConfigError(
                f'Config key "remat" has {one_line(repr(tower))}. It is a tuple of towers out of '
                f"{', '.join(TOWERS)}."
            )
    chunks = config.gradient_cache_chunks
    if chunks > 1 and config.task == "property":
        raise ConfigError(
            f'Config key "gradient_cache_chunks" is {chunks}, and the task "property" contrasts '
            "nothing: its loss is a mean over crystals. Leave it at 1 and set accumulate_steps, "
            "whose gradient is that of the larger batch."
        )
    if chunks > 1 and config.graph_encoder.name == "cgcnn":
        raise ConfigError(
            f'Config key "gradient_cache_chunks" is {chunks}, and CGCNN normalizes by the '
            "statistics of the whole batch, which no chunk has. Leave it at 1 and set "
            "remat=('graph_encoder', 'text_encoder') to save memory, or take another "
            "graph_encoder.name."
        )


def _check_restore(config: ml_collections.ConfigDict) -> None:
    parts = config.restore.parts
    for part in parts:
        if part not in RESTORE_PARTS:
            raise ConfigError(
                f'Config key "restore.parts" has {one_line(repr(part))}. It can hold '
                f"{', '.join(RESTORE_PARTS)}."
            )
    if "opt_state" in parts and "params" not in parts:
        raise ConfigError(
            'Config key "restore.parts" has "opt_state" without "params", and the moments of other '
            'parameters would mislead the optimizer. Add "params" or leave out "opt_state".'
        )
    rules = config.restore.rules
    for rule in rules:
        pair = isinstance(rule, tuple | list) and len(rule) == 2 and isinstance(rule[0], str)
        if not pair or not (rule[1] is None or isinstance(rule[1], str)):
            raise ConfigError(
                f'Config key "restore.rules" has {one_line(repr(rule))}. Each rule is a pair '
                "of a regular expression and its replacement, or None: (('old/(.*)', r'new/\\1'),)."
            )


def _check_keys(given: Any, known: Any, prefix: str) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=1)
            hint = (
                f'Did you mean "{prefix}{near[0]}"?' if near else "See clac_jax/config/schema.py."
            )
            raise ConfigError(f'Unknown config key "{prefix}{one_line(key)}". {hint}')
        if isinstance(known[key], ml_collections.ConfigDict):
            if not isinstance(given[key], ml_collections.ConfigDict):
                raise ConfigError(
                    f'Config key "{prefix}{key}" is a group of keys, not '
                    f'{one_line(repr(given[key]))}. Set "{prefix}{key}.NAME".'
                )
            _check_keys(given[key], known[key], f"{prefix}{key}.")
        else:
            _check_type(given[key], known, key, prefix)
    for key in known:
        if key not in given:
            raise ConfigError(
                f'Config key "{prefix}{key}" is missing. Start from '
                "clac_jax.config.schema.default_config() and change what you need."
            )


_MAX_TEXT = 4096  # as long as a path can be

# What a value of each type is called, and what it may be: JSON has lists for tuples.
_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (float, int)),
    str: ("a text", (str,)),
    tuple: ("a tuple", (tuple, list)),
}


def _check_type(value: Any, known: ml_collections.ConfigDict, key: str, prefix: str) -> None:
    """A config from a JSON file may hold anything; one from flags has the types of the defaults."""
    words, kinds = _KINDS.get(known.get_type(key), ("", (object,)))
    if value is None and known[key] is None:
        return
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise ConfigError(
            f'Config key "{prefix}{key}" has {len(value):,} characters. Give at most {_MAX_TEXT}.'
        )
    is_bool = isinstance(value, bool) and bool not in kinds and object not in kinds
    if not isinstance(value, kinds) or is_bool or value != value:
        raise ConfigError(
            f'Config key "{prefix}{key}" is {one_line(repr(value))}, and must be {words}.'
        )


def _get(config: ml_collections.ConfigDict, dotted: str) -> Any:
    for name in dotted.split("."):
        config = config[name]
    return config


def _check_choice(config: ml_collections.ConfigDict, dotted: str, choices: tuple[str, ...]) -> None:
    value = _get(config, dotted)
    if value not in choices:
        raise ConfigError(
            f'Config key "{dotted}" is {one_line(repr(value))}. It must be one of '
            f"{', '.join(choices)}."
        )


def _check_range(
    config: ml_collections.ConfigDict,
    dotted: str,
    low: float,
    high: float = float("inf"),
) -> None:
    value = _get(config, dotted)
    if not low <= value <= high:
        bound = f"at least {low}" if high == float("inf") else f"from {low} to {high}"
        raise ConfigError(f'Config key "{dotted}" is {one_line(repr(value))}. It must be {bound}.')
