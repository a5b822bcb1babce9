"""Config keys for loss, optimizer, schedules and devices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from clac_jax.config.effects import NEXT_STEP, NEXT_VALIDATION, OTHER_MODEL, SCHEDULE
from clac_jax.config.encoders import merged_keys
from clac_jax.config.key import Group, key
from clac_jax.errors import one_line


def wrong_regexes(patterns: Any) -> str:
    """The problem with a tuple of regular expressions; "" if it is valid."""
    for pattern in patterns:
        if not isinstance(pattern, str):
            return f"It has {one_line(repr(pattern))}, which is not a regular expression."
        try:
            re.compile(pattern)
        except re.error as error:
            return f"It has {one_line(repr(pattern))}, which is not a regular expression: {error}."
    return ""


def wrong_factors(pairs: Any) -> str:
    """The problem with a tuple of (regular expression, number) pairs; "" if it is valid."""
    for pair in pairs:
        is_pair = isinstance(pair, tuple | list) and len(pair) == 2
        if not is_pair or isinstance(pair[1], bool) or not isinstance(pair[1], int | float):
            return (
                f"It has {one_line(repr(pair))}. Each entry is a pair of a regular expression "
                'and a number: (("text_encoder/.*", 0.1),).'
            )
    return wrong_regexes(pair[0] for pair in pairs)


@dataclass(frozen=True)
class ChosenLoss:
    """Keys of a contrastive loss that are independent of which one is selected."""

    name: str = key(
        "infonce",
        "the loss; configs/losses.py has a config of each",
        on_change=OTHER_MODEL,
        validation="model",
    )


def loss_keys() -> Group:
    """The group `config.loss`."""
    # The settings are declared next to the functions, so import them only when needed.
    from clac_jax.models.losses import LOSSES

    return Group("", merged_keys(ChosenLoss, LOSSES, "loss", "name"))


@dataclass(frozen=True)
class Property:
    """The config group `config.property`."""

    name: str = key("band gap", 'a property of the data set, or "crystal system"')
    kind: str = key(
        "regression",
        "whether the property is a number or a class",
        choices=("regression", "classification"),
    )


@dataclass(frozen=True)
class Optimizer:
    """The config group `config.optimizer`."""

    name: str = key(
        "adamw",
        "the optimizer",
        choices=("adam", "adamw", "sgd", "lion"),
        on_change="parameters, step and epoch are kept; optimizer state only where both have it",
    )
    b1: float = key(
        0.9,
        "decay of the first moment",
        low=0.0,
        below=1.0,
        used_with="optimizer.name=adam,adamw,lion",
    )
    b2: float = key(
        0.999,
        "decay of the second moment",
        low=0.0,
        below=1.0,
        used_with="optimizer.name=adam,adamw,lion",
    )
    eps: float = key(
        1e-8, "added to the denominator", low=0.0, used_with="optimizer.name=adam,adamw"
    )
    momentum: float = key(0.9, "momentum", low=0.0, high=1.0, used_with="optimizer.name=sgd")
    learning_rate_factors: tuple[tuple[str, float], ...] = key(
        (),
        "((regex on parameter paths, factor), ...): the first that matches scales the learning "
        "rate",
        check=wrong_factors,
        on_change=SCHEDULE,
    )
    weight_decays: tuple[tuple[str, float], ...] = key(
        (),
        "((regex on parameter paths, decay), ...): the first that matches replaces weight_decay, "
        "on biases too",
        check=wrong_factors,
    )


@dataclass(frozen=True)
class Cosine:
    """The config group `config.cosine`."""

    epochs: float = key(
        0.0,
        "epochs from the peak to the minimum; the rate then rises again (cosine) or restarts "
        "(cosine_restarts); 0: the length of the run (cosine)",
        low=0.0,
    )
    factor: float = key(
        1.0,
        "length of each period relative to the one before",
        low=1.0,
        used_with="schedule=cosine_restarts",
    )


@dataclass(frozen=True)
class OneCycle:
    """The config group `config.one_cycle`."""

    rise: float = key(0.3, "share of the run in which the learning rate rises", low=0.0, high=1.0)
    start_factor: float = key(0.04, "first learning rate, relative to learning_rate", low=0.0)
    end_factor: float = key(4e-6, "last learning rate, relative to learning_rate", low=0.0)


@dataclass(frozen=True)
class Plateau:
    """The config group `config.plateau`."""

    factor: float = key(
        0.5,
        "factor on the learning rate at a plateau",
        low=0.0,
        high=1.0,
        on_change=NEXT_VALIDATION,
    )
    patience: int = key(
        30,
        "validations without a better checkpoint.monitor before the rate is lowered",
        low=0,
        on_change=NEXT_VALIDATION,
    )


@dataclass(frozen=True)
class Ema:
    """The config group `config.ema`."""

    decay: float = key(
        0.0,
        "weight of the average of the parameters so far, in each step; 0: no average is kept. "
        "0.999 averages over about 1,000 steps",
        low=0.0,
        high=1.0,
    )
    warmup: bool = key(
        True,
        "whether the weight starts lower, at (1 + step) / (10 + step), so that the average soon "
        "forgets the first parameters",
        on_change=NEXT_STEP,
    )
    evaluate: bool = key(
        True,
        "whether the average is what is validated, ranked (@best), tested and published; otherwise "
        "the parameters of the last step are",
        on_change=NEXT_VALIDATION,
    )


@dataclass(frozen=True)
class Sharding:
    """The config group `config.sharding`."""

    what: str = key(
        "nothing",
        "what is spread over the devices instead of replicated on each",
        choices=("nothing", "optimizer", "everything"),
    )
    min_elements: int = key(1 << 16, "smaller arrays stay replicated", low=0)


@dataclass(frozen=True)
class Distributed:
    """The config group `config.distributed`."""

    coordinator_address: str = key("", "HOST:PORT of the first process")
    num_processes: int | None = key(
        None, "processes of the run", kind=int, low=1, per_process=False
    )
    process_id: int | None = key(None, "number of this process, from 0", kind=int, low=0)
    local_devices: tuple[int, ...] = key(
        (), "numbers of the devices that this process uses; (): all, or as SLURM says"
    )
    connect_seconds: int = key(300, "time to wait for the other processes at the start", low=1)
    failure_seconds: int = key(60, "silence after which a process is considered lost", low=1)


@dataclass(frozen=True)
class Watchdog:
    """The config group `config.watchdog`."""

    enabled: bool = key(True, "whether a hang ends the run, with exit code 76", per_process=False)
    factor: float = key(
        10.0,
        "a step, save, validation or wait for data hangs when it takes this many times the median "
        "of the earlier ones of the run",
        low=1.0,
    )
    floor_seconds: float = key(600.0, "but not before it has taken this long", low=0.1)
    first_seconds: float = key(
        3600.0,
        "the same for the first of each kind, for a step that compiles, for the restore at the "
        "start and for a batch of the final test",
        low=0.1,
    )
