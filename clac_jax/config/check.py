"""Checks of a run's config: each key against its declaration, and keys against each other."""

from __future__ import annotations

import dataclasses
import difflib
from typing import Any

import ml_collections

from clac_jax.config import renamed
from clac_jax.config.encoders import fill_defaults, graph_encoders
from clac_jax.config.key import Group, Key
from clac_jax.config.run import DEBUG_EXAMPLES, DEBUG_STEPS, declaration
from clac_jax.config.saving import MONITORS, PROPERTY_MONITORS
from clac_jax.errors import ConfigError, one_line
from clac_jax.files.paths import check_local, check_place

ALL_KEYS = "docs/config.md lists all keys, and so does `python -m clac_jax.config.document`."

BUNDLED = "materials_project_mini"
"""The data set that needs no `dataset.path`."""

_MAX_TEXT = 4096  # the longest possible path
_MAX_INTEGER = 2**63 - 1  # the largest seed of JAX, and 64 bits

# Name of each type in messages, and the accepted Python types: JSON has lists for tuples.
_KINDS: dict[type, tuple[str, tuple[type, ...]]] = {
    bool: ("True or False", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (float, int)),
    str: ("a text", (str,)),
    tuple: ("a tuple", (tuple, list)),
}


def ready(
    config: ml_collections.ConfigDict | ml_collections.FrozenConfigDict,
) -> ml_collections.ConfigDict:
    """A copy that is ready to run: checked, with references resolved and all values explicit.

    Values left to the encoder are filled in, and `debug` is expanded into the settings it implies:
    one epoch, and a smaller batch if `dataset.max_examples` does not fill it.

    Raises:
        ConfigError: see `validate`.
    """
    if isinstance(config, ml_collections.FrozenConfigDict):
        config = config.as_configdict()
    if not isinstance(config, ml_collections.ConfigDict):
        raise ConfigError(
            f"The config is of type {type(config).__name__}. Start from "
            "clac_jax.config.default_config() and change what you need."
        )
    validate(config)
    config = config.copy_and_resolve_references()
    fill_defaults(config)
    if config.debug:
        config.max_epochs = 1
        # The batches are those of the real run, so that it shows whether they fit into memory.
        enough = max(DEBUG_EXAMPLES, DEBUG_STEPS * config.batch_size * config.accumulate_steps)
        config.dataset.max_examples = config.dataset.max_examples or enough
        _fill_step(config, config.dataset.max_examples)
    return config


def _fill_step(config: ml_collections.ConfigDict, num_examples: int) -> None:
    """Lowers the examples of a step of a debug run to those that it has.

    The batch is halved, so that it can still be divided by the number of devices in most cases.
    Batches of a validation need not be filled.
    """
    multiple = config.layout_parts if config.reproducible == "layout" else 1
    half = config.batch_size // 2
    while config.batch_size * config.accumulate_steps > num_examples:
        if half < 2 or half % multiple:
            config.accumulate_steps = max(1, num_examples // config.batch_size)
            return
        config.batch_size, half = half, half // 2


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks that a config has exactly the known keys and that their values are consistent.

    Raises:
        ConfigError: a key or value is invalid; names the key, the value and what is allowed.
        PathError: a value cannot be the name of a file or folder.
    """
    _check_group(config, declaration(), prefix="")
    _check_dataset(config)
    _check_sharding(config)
    _check_monitor(config)
    _check_schedule(config)
    _check_graph_encoder(config)
    _check_gradient_cache(config)
    _check_layout(config)
    _check_restore(config)


def _check_group(given: Any, group: Group, prefix: str) -> None:
    for name in given:
        if name not in group.members:
            raise ConfigError(unknown(prefix + name, [prefix + known for known in group.members]))
    for name, member in group.members.items():
        dotted = prefix + name
        if name not in given:
            raise ConfigError(
                f'Config key "{dotted}" is missing. Start from '
                "clac_jax.config.default_config() and change what you need."
            )
        if not isinstance(member, Group):
            check_value(dotted, given[name], member)
        elif isinstance(given[name], ml_collections.ConfigDict):
            _check_group(given[name], member, f"{dotted}.")
        else:
            raise ConfigError(
                f'Config key "{dotted}" is a group of keys, not '
                f'{one_line(repr(given[name]))}. Set "{dotted}.NAME".'
            )


def unknown(dotted: str, known: list[str]) -> str:
    """The message about a key that does not exist, with the one of `known` that may be meant."""
    if known_as := next((str(each) for each in renamed.RENAMED if each.old == dotted), ""):
        return known_as
    near = difflib.get_close_matches(dotted, known, n=1)
    return unknown_key(dotted, near[0] if near else "")


def unknown_key(name: str, similar: str = "") -> str:
    """The message about a config key that does not exist.

    Args:
        name: the key as given by the user.
        similar: the key that may be meant; "" if none is similar.
    """
    advice = f'Did you mean "{similar}"?' if similar else ALL_KEYS
    return f'Unknown config key "{one_line(name)}". {advice}'


def check_value(dotted: str, value: Any, key: Key) -> None:
    """Checks one value against the declaration of its key.

    A config from a JSON file may hold anything; one from flags has the types of the defaults.

    Raises:
        ConfigError: the value cannot be used.
        PathError: it cannot be the name of a file or folder.
    """
    if value is None and key.default is None:
        return
    _check_type(dotted, value, key)
    if key.choices:
        is_tuple = isinstance(value, tuple | list)
        for each in value if is_tuple else (value,):
            if each not in key.choices:
                raise ConfigError(
                    f'Config key "{dotted}" {"has" if is_tuple else "is"} {one_line(repr(each))}. '
                    f"It {'can hold' if is_tuple else 'must be one of'} {', '.join(key.choices)}."
                )
    is_tuple = isinstance(value, tuple | list)
    for each in value if is_tuple else (value,):
        _check_bounds(dotted, each, key, in_tuple=is_tuple)
    if key.check is not None and (problem := key.check(value)):
        raise ConfigError(f'Config key "{dotted}" cannot be used. {problem}')
    if key.is_path and (value or not key.may_be_empty):
        what = f'Config key "{dotted}"'
        if key.local_only:
            check_local(value, what, key.local_only)
        else:
            check_place(value, what)


def _check_bounds(dotted: str, number: Any, key: Key, *, in_tuple: bool) -> None:
    if key.kind is int and key.high is None and number > _MAX_INTEGER:
        # Not in the messages of other values: far beyond what is used.
        key = dataclasses.replace(key, high=_MAX_INTEGER)
    if not key.bounds:
        return
    low, high, below = key.low, key.high, key.below
    shown = one_line(repr(number))
    if in_tuple and (isinstance(number, bool) or not isinstance(number, int)):
        raise ConfigError(f'Config key "{dotted}" has {shown}. It can hold whole numbers.')
    too_high = (high is not None and number > high) or (below is not None and number >= below)
    if too_high or (low is not None and number < low):
        what = "has" if in_tuple else "is"
        who = "Each must" if in_tuple else "It must"
        raise ConfigError(f'Config key "{dotted}" {what} {shown}. {who} be {key.bounds}.')


def _check_type(dotted: str, value: Any, key: Key) -> None:
    assert key.kind is not None
    words, kinds = _KINDS[key.kind]
    if isinstance(value, str) and len(value) > _MAX_TEXT:
        raise ConfigError(
            f'Config key "{dotted}" has {len(value):,} characters. Give at most {_MAX_TEXT}.'
        )
    is_bool = isinstance(value, bool) and bool not in kinds
    if not isinstance(value, kinds) or is_bool or value != value:
        raise ConfigError(f'Config key "{dotted}" is {one_line(repr(value))}, and must be {words}.')


def _check_dataset(config: ml_collections.ConfigDict) -> None:
    if config.dataset.path and config.dataset.name == BUNDLED:
        raise ConfigError(
            f'Config key "dataset.path" is {one_line(repr(config.dataset.path))}, and the data set '
            f"{BUNDLED} comes with the package and reads no file. Set "
            "--config.dataset.name=gpt_narratives for data of your own."
        )


def _check_sharding(config: ml_collections.ConfigDict) -> None:
    if config.sharding.what != "nothing" and config.parallel != "shard_map":
        raise ConfigError(
            f'Config key "sharding.what" is {config.sharding.what!r}, and pmap keeps everything on '
            "every device. Set parallel=shard_map."
        )


def _check_monitor(config: ml_collections.ConfigDict) -> None:
    is_property = config.task == "property"
    monitors = PROPERTY_MONITORS[config.property.kind] if is_property else MONITORS
    if config.checkpoint.monitor not in monitors:
        raise ConfigError(
            f'Config key "checkpoint.monitor" is {config.checkpoint.monitor!r}. With '
            f"task={config.task} it must be one of {', '.join(monitors)}."
        )


def _check_schedule(config: ml_collections.ConfigDict) -> None:
    if config.schedule == "cosine_restarts" and not config.cosine.epochs:
        raise ConfigError(
            'Config key "cosine.epochs" is 0, and the schedule "cosine_restarts" needs the length '
            "of its first period. The reference's is 10."
        )


def _check_graph_encoder(config: ml_collections.ConfigDict) -> None:
    options, kinds = config.graph_encoder, graph_encoders()
    if options.pretrained is not None and not kinds[options.name].pretrained_files:
        readers = [
            f"graph_encoder.name={name} for {kind.pretrained_files}"
            for name, kind in kinds.items()
            if kind.pretrained_files
        ]
        raise ConfigError(
            'Config key "graph_encoder.pretrained" names a file, and the encoder is '
            f"{options.name}, which reads none. Set {' or '.join(readers)}, or leave the file out; "
            "weights of this project come by resume_from."
        )


def _check_gradient_cache(config: ml_collections.ConfigDict) -> None:
    chunks = config.gradient_cache_chunks
    if chunks > 1 and config.task == "property":
        raise ConfigError(
            f'Config key "gradient_cache_chunks" is {chunks}, and the task "property" contrasts '
            "nothing: its loss is a mean over crystals. Leave it at 1 and set accumulate_steps, "
            "whose gradient is that of the larger batch."
        )
    name = config.graph_encoder.name
    if chunks > 1 and graph_encoders()[name].has_batch_statistics:
        raise ConfigError(
            f'Config key "gradient_cache_chunks" is {chunks}, and the graph encoder {name} '
            "normalizes by the statistics of the full batch, which no chunk has. Leave it at 1 and "
            "set remat=('graph_encoder', 'text_encoder') to save memory, or use another "
            "graph_encoder.name."
        )


def _check_layout(config: ml_collections.ConfigDict) -> None:
    if config.reproducible != "layout":
        return
    parts, asked = config.layout_parts, 'With reproducible="layout", '
    if parts & (parts - 1):
        raise ConfigError(
            f'Config key "layout_parts" is {parts}, and the parts of a batch are added in pairs. '
            "Set it to a power of two."
        )
    for name in ("batch_size", "eval_batch_size"):
        if config[name] % parts:
            raise ConfigError(
                f"{asked}{name} = {config[name]} must be a multiple of layout_parts = {parts}. "
                f"Set it to {config[name] + -config[name] % parts}."
            )
    if config.gradient_cache_chunks > 1:
        raise ConfigError(
            f"{asked}a batch is in layout_parts = {parts} parts, one of them in memory at a time. "
            'Leave "gradient_cache_chunks" at 1, and raise layout_parts for less memory.'
        )
    if config.parallel != "pmap":
        raise ConfigError(
            f"{asked}every device holds the entire state, and its steps are programs of their own. "
            'Set parallel="pmap".'
        )
    name = config.graph_encoder.name
    if config.task == "property" or graph_encoders()[name].has_batch_statistics:
        what = "a property is learned" if config.task == "property" else f"the encoder is {name}"
        raise ConfigError(
            f"{asked}the parts of a batch are encoded one by one, which is not possible if {what}. "
            'Set reproducible="run": then the same number of devices gives the same bits.'
        )


def _check_restore(config: ml_collections.ConfigDict) -> None:
    parts = config.restore.parts
    if "opt_state" in parts and "params" not in parts:
        raise ConfigError(
            'Config key "restore.parts" has "opt_state" without "params", and the moments of other '
            'parameters would mislead the optimizer. Add "params" or leave out "opt_state".'
        )
    if config.restore.sources and (config.resume_from or config.restore.rules):
        other = "resume_from" if config.resume_from else "restore.rules"
        raise ConfigError(
            f'Config keys "restore.sources" and "{other}" are both set, and each says what a run '
            f"starts from. Leave {other} empty: a source has its own name, parts and rules."
        )
