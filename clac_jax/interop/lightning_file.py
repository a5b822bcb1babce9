"""Reads and validates the parts of a PyTorch Lightning checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.errors import UserError, one_line
from clac_jax.files.torch import read_torch_file

_MAX_COUNT = (1 << 31) - 1  # of steps and epochs, which are int32 in the training state


class LightningImportError(UserError, ValueError):
    """A file is not a checkpoint of the PyTorch release, or is inconsistent."""


@dataclass(frozen=True)
class OptimizerState:
    """The state of a PyTorch optimizer.

    Attributes:
        numbers: the numbers of its parameters, in the order of the groups.
        state: number of a parameter -> its state: "step", "exp_avg", ...
        learning_rate: learning rate of the first group, if given.
        groups: the settings of each group of parameters.
    """

    numbers: list[int]
    state: dict[int, dict[str, Any]]
    learning_rate: float | None
    groups: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class LightningFile:
    """A checkpoint; one saved with `save_weights_only=True` lacks most of the fields.

    Attributes:
        path: path of the file.
        state_dict: tensors of the model by name.
        hyper_parameters: hyperparameters of the run; None if missing.
        epoch: epoch of the last batch, from 0; None if missing.
        global_step: number of optimizer steps; None if missing.
        stopped_inside_epoch: whether the epoch was incomplete.
        batches: number of batches in all epochs; None if unknown.
        optimizers: states of the optimizers.
        schedule: state of the learning-rate schedule.
        monitors: (metric, mode, last value or None) of each ModelCheckpoint callback.
        missing: keys that the file lacks, in the order of `KEYS`.
        prefix: prefix of wrappers that was removed from the names of the tensors.
        unread: keys and callbacks of the file that are not read.
    """

    path: str | Path
    state_dict: dict[str, np.ndarray]
    hyper_parameters: dict[str, Any] | None
    epoch: int | None
    global_step: int | None
    stopped_inside_epoch: bool = False
    batches: int | None = None
    optimizers: list[OptimizerState] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)
    monitors: list[tuple[str, str, float | None]] = field(default_factory=list)
    missing: tuple[str, ...] = ()
    prefix: str = ""
    unread: tuple[str, ...] = ()


KEYS = (
    "hyper_parameters", "epoch", "global_step", "loops", "optimizer_states", "lr_schedulers",
    "callbacks",
)  # fmt: skip
_ABOUT = ("state_dict", "pytorch-lightning_version", "hparams_name", "hparams_type")
# Wrappers that put a prefix before the names: DistributedDataParallel and torch.compile.
_WRAPPERS = ("module.", "_orig_mod.")


def read_lightning_file(path: str | Path) -> LightningFile:
    """Reads a `.ckpt` file and validates the types of all values that are used.

    The tensors of a model that were saved without anything else are such a file, too.

    Raises:
        TorchFileError: the file cannot be read, or contains more than plain data.
        LightningImportError: there is no `state_dict`, or a value has the wrong type.
    """
    saved = read_torch_file(path)
    if isinstance(saved, dict) and any("graph_encoder." in str(name) for name in saved):
        saved = {"state_dict": saved}
    if not isinstance(saved, dict) or "state_dict" not in saved:
        raise LightningImportError(
            f"{path} lacks state_dict, so it is not a checkpoint of a training run: it contains "
            f"{_described(saved)}. Use a .ckpt written by the training of the release."
        )
    part = _Part(path, "", saved)
    tensors = part.mapping("state_dict")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, np.ndarray):
            raise part.wrong(f"state_dict[{one_line(repr(name), 80)}]", tensor, "a tensor")
    tensors, prefix = _unwrapped(tensors)
    fit_loop = part.part("loops").part("fit_loop")
    batches = fit_loop.part("epoch_loop.batch_progress")
    schedules = part.items("lr_schedulers")
    return LightningFile(
        path=path,
        state_dict=tensors,
        hyper_parameters=part.mapping("hyper_parameters") if "hyper_parameters" in saved else None,
        epoch=part.integer("epoch"),
        global_step=part.integer("global_step"),
        stopped_inside_epoch=not batches.flag("is_last_batch", True),
        batches=batches.part("total").integer("completed"),
        optimizers=[_optimizer(state) for state in part.items("optimizer_states")],
        schedule=schedules[0].values if schedules else {},
        monitors=_monitors(part.part("callbacks")),
        missing=tuple(key for key in KEYS if key not in saved),
        prefix=prefix,
        unread=(
            *(str(key) for key in saved if key not in (*_ABOUT, *KEYS)),
            *(
                f"callbacks.{name}"
                for name in part.mapping("callbacks")
                if not str(name).startswith("ModelCheckpoint")
            ),
        ),
    )


def _unwrapped(tensors: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The tensors without the prefix of wrappers that all of their names have, and the prefix."""
    prefix = ""
    while tensors and (
        found := [each for each in _WRAPPERS if all(name.startswith(each) for name in tensors)]
    ):
        prefix += found[0]
        tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}
    return tensors, prefix


class _Part:
    """A dict of the file with accessors that check the types of its values."""

    def __init__(self, path: str | Path, name: str, values: Mapping[str, Any]):
        self.path, self.name, self.values = path, name, dict(values)

    def wrong(self, name: str, value: Any, wanted: str) -> LightningImportError:
        return LightningImportError(
            f"{self.path} is not a checkpoint written by the training of the release: its "
            f"{self.name}{name} is {_described(value)} instead of {wanted}. Use another file."
        )

    def mapping(self, name: str) -> dict[Any, Any]:
        value = self.values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self.wrong(name, value, "a dict")
        return value or {}

    def part(self, name: str) -> _Part:
        return _Part(self.path, f"{self.name}{name}.", self.mapping(name))

    def items(self, name: str) -> list[_Part]:
        values = self.values.get(name)
        if values is not None and not isinstance(values, list | tuple):
            raise self.wrong(name, values, "a list")
        for number, value in enumerate(values or ()):
            if not isinstance(value, dict):
                raise self.wrong(f"{name}[{number}]", value, "a dict")
        return [
            _Part(self.path, f"{self.name}{name}[{number}].", value)
            for number, value in enumerate(values or ())
        ]

    def integer(self, name: str) -> int | None:
        value = self.values.get(name)
        if value is None:
            return None
        count = as_number(value)
        if count is None or count != int(count) or not 0 <= count <= _MAX_COUNT:
            raise self.wrong(name, value, "a count")
        return int(count)

    def flag(self, name: str, default: bool) -> bool:
        value = self.values.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "true or false")
        return value


def as_number(value: Any) -> float | None:
    """A finite number, also from a tensor with one element; None for anything else."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.reshape(()).astype(np.float64).item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, int) and abs(value) > 1 << 62:
        return None
    return value if math.isfinite(value) else None


def _optimizer(part: _Part) -> OptimizerState:
    state = part.mapping("state")
    for number, values in state.items():
        if not isinstance(number, int) or not isinstance(values, dict):
            raise part.wrong(f"state[{one_line(repr(number), 80)}]", values, "a dict")
    numbers: list[int] = []
    groups = part.items("param_groups")
    for group in groups:
        of_group = group.values.get("params")
        if not isinstance(of_group, list | tuple):
            raise group.wrong("params", of_group, "a list")
        if not all(isinstance(number, int) for number in of_group):
            raise group.wrong("params", of_group, "a list of numbers")
        numbers += of_group
    rate = as_number(groups[0].values.get("lr")) if groups else None
    return OptimizerState(numbers, state, rate, [group.values for group in groups])


def _monitors(callbacks: _Part) -> list[tuple[str, str, float | None]]:
    monitors = []
    for name in callbacks.values:
        if isinstance(name, str) and name.startswith("ModelCheckpoint"):
            values = callbacks.mapping(name)
            mode = "max" if "'mode': 'max'" in name else "min"
            monitors.append(
                (str(values.get("monitor")), mode, as_number(values.get("current_score")))
            )
    return monitors


def _described(value: Any) -> str:
    """A short description of a value: its type, and its keys or content if short."""
    kind = type(value).__name__
    if isinstance(value, dict):
        keys = ", ".join(one_line(key, 40) for key in list(value)[:3])
        more = ", ..." if len(value) > 3 else ""
        return f"a dict with {keys}{more}" if value else "an empty dict"
    if isinstance(value, np.ndarray):
        return f"a tensor of shape {value.shape}"
    if isinstance(value, str | int | float | None):
        return one_line(repr(value) if not isinstance(value, int) else value, 40)
    return f"a {kind}"
