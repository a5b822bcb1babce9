"""Conversion of the hyperparameters of the PyTorch release to a config of this project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_collections

from clac_jax.config.schema import default_config, flatten
from clac_jax.crystals.elements import NUM_FEATURES
from clac_jax.errors import UserError, one_line
from clac_jax.models.graph import GRAPH_ENCODERS
from clac_jax.stores.url import is_url

Values = Mapping[str, Any]

_MAX_TEXT = 1000  # characters of a value
_MAX_NUMBER = 1e12  # far above any size, count or rate


class ImportedConfigError(UserError, ValueError):
    """Hyperparameters are not supported or invalid."""


@dataclass
class ImportedConfig:
    """A config, with the assumptions that were made.

    Attributes:
        config: config of the run.
        notes: assumptions, one line each.
        unmapped: dotted name -> value of the hyperparameters without a counterpart.
    """

    config: ml_collections.ConfigDict
    notes: list[str] = field(default_factory=list)
    unmapped: dict[str, Any] = field(default_factory=dict)


def imported_config(hyperparameters: Values) -> ImportedConfig:
    """Converts the hyperparameters of a run of the release.

    Args:
        hyperparameters: `hyper_parameters` of the checkpoint, as plain values.

    Raises:
        ImportedConfigError: an encoder, loss, optimizer or schedule is not supported, or a value is
            missing or invalid.
    """
    reader = _Hyperparameters(hyperparameters)
    try:
        return _imported(reader)
    except (TypeError, ValueError, OverflowError, ZeroDivisionError, KeyError) as error:
        if isinstance(error, UserError):
            raise
        raise ImportedConfigError(
            f"The checkpoint's hyperparameter {one_line(reader.last)} cannot be used "
            f"({one_line(error)}). Use a checkpoint written by the training of the release."
        ) from error


def _imported(reader: _Hyperparameters) -> ImportedConfig:
    config = default_config()
    notes: list[str] = []
    # Behaviour of the release that is not among its hyperparameters.
    config.checkpoint.save_top_k = 3
    config.input.group_by = "none"
    _graph_encoder(reader, config)
    _loss(reader, config)
    _views(reader, config, notes)
    _optimizer(reader, config)
    _schedule(reader, config)
    config.lm_weight = reader.number("lm_weight", 0.0)
    config.batch_size = reader.integer("datamodule.batch_size")
    notes.append(
        f"batch_size {config.batch_size} was per device, with negatives from the same device only; "
        "here it is the global batch size"
    )
    for key in ("max_epochs", "gradient_clip", "seed"):
        notes.append(
            f"{key} is not in the file; it is set to {config[key]}, the default of the release"
        )
    # Not used in this project.
    for name in (
        "graph_encoder._type",
        "datamodule._target_",
        "datamodule.num_workers",
        "datamodule.graphdatatype",
        "datamodule.use_visual_intramodal_loss",
        "datamodule.use_textual_intramodal_loss",
        "loss._target_",
        "emb_dim",
    ):
        reader.take(name, None)
    return ImportedConfig(config, notes, reader.left())


class _Hyperparameters:
    """Hyperparameters by dotted name, keeping track of those that were not read."""

    def __init__(self, values: Values):
        self._flat = flatten(_with_text_keys(dict(values)))
        self._left = dict(self._flat)
        self.last = ""  # the name that was read last, for messages

    def take(self, name: str, *default: Any) -> Any:
        self.last = name
        if len(str(self._flat.get(name, ""))) > _MAX_TEXT:
            raise ValueError(f"it is longer than {_MAX_TEXT} characters")
        self._left.pop(name, None)
        if name in self._flat:
            return self._flat[name]
        if default:
            return default[0]
        raise ImportedConfigError(
            f"The checkpoint's hyper_parameters lack {name!r}, so the run cannot be reconstructed. "
            "Use a checkpoint written by the training of the release."
        )

    def flag(self, name: str, *default: bool) -> bool:
        value = self.take(name, *default)
        if value not in (True, False):  # "False" would count as true
            raise ValueError(f"{value!r} is not true or false")
        return bool(value)

    def number(self, name: str, *default: float) -> float:
        """A finite, non-negative number; may be given as a string."""
        value = self.take(name, *default)
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError(f"it is a {type(value).__name__}, not a number")
        number = float(value)
        if not 0 <= number < _MAX_NUMBER:
            raise ValueError(f"{number} is not between 0 and {_MAX_NUMBER:,}")
        return number

    def integer(self, name: str, *default: int) -> int:
        number = self.number(name, *default)
        if number != int(number):
            raise ValueError(f"{number} is not an integer")
        return int(number)

    def drop(self, prefix: str) -> None:
        for name in [name for name in self._left if name.startswith(prefix)]:
            del self._left[name]

    def left(self) -> dict[str, Any]:
        return self._left


def _with_text_keys(values: dict[Any, Any]) -> dict[str, Any]:
    return {
        str(key): _with_text_keys(value) if isinstance(value, dict) else value
        for key, value in values.items()
    }


def _unknown(what: str, value: Any, known: str) -> ImportedConfigError:
    return ImportedConfigError(
        f"The checkpoint's {what} is {one_line(repr(value))}, which is not known here. Known: "
        f"{known}."
    )


def _graph_encoder(reader: _Hyperparameters, config: ml_collections.ConfigDict) -> None:
    names = {
        name: kind.release_names for name, kind in GRAPH_ENCODERS.items() if kind.release_names
    }
    kind = reader.take("graph_encoder.name")
    if kind not in names:
        raise _unknown("graph_encoder.name", kind, ", ".join(names))
    width = reader.take("graph_encoder.orig_atom_fea_len", NUM_FEATURES)
    if width != NUM_FEATURES:
        raise _unknown("graph_encoder.orig_atom_fea_len", width, str(NUM_FEATURES))
    reader.take("graph_encoder._target_", None)
    config.graph_encoder.name = kind
    for theirs, ours in names[kind].items():
        is_integer = isinstance(config.graph_encoder[ours], int)
        take = reader.integer if is_integer else reader.number
        config.graph_encoder[ours] = take(f"graph_encoder.{theirs}")


def _loss(reader: _Hyperparameters, config: ml_collections.ConfigDict) -> None:
    name = reader.take("loss.name")
    if name != "infonce":
        raise _unknown("loss.name", name, "infonce")
    config.logit_scale_init = 1 / reader.number("loss.temperature")
    config.use_visual_intramodal_loss = reader.flag("loss.visual_self_supervised")
    config.use_textual_intramodal_loss = reader.flag("loss.textual_self_supervised")
    for side in ("visual", "textual"):
        reader.take(f"use_{side}_intramodal_loss", None)


def _views(reader: _Hyperparameters, config: ml_collections.ConfigDict, notes: list[str]) -> None:
    config.augment.perturb_law = "legacy"
    notes.append(
        "augment.perturb_law is 'legacy', as in the release; it can move atoms unphysically close "
        "to each other, unlike 'bounded'"
    )
    config.augment.mask_prob = reader.number("text_augmentation.mask_prob", 0.15)
    reader.drop("text_augmentation.")
    config.dataset.text_source = reader.take("datamodule.textdatatype", "narratives")
    config.replace_formula_prob = reader.number("datamodule.replace_formula_prob", 0.0)
    if reader.take("datamodule.replace_formula_start_epoch", None) is not None:
        start = reader.integer("datamodule.replace_formula_start_epoch")
        config.replace_formula_start_epoch = start
    if not reader.flag("datamodule.sentencewise", True):
        config.augment.sentence_keep_prob = 1.0
    if not reader.flag("augmentation", True):
        notes.append("augmentation was off; here the two views of a crystal are still augmented")
    if reader.flag("datamodule.debug", False):
        notes.append("debug was on; it has no counterpart")


def _optimizer(reader: _Hyperparameters, config: ml_collections.ConfigDict) -> None:
    names = {"Adam": "adam", "AdamW": "adamw", "SGD": "sgd"}
    target = str(reader.take("optimizer.optimizer._target_"))
    name = target.rpartition(".")[2]
    if name not in names:
        raise _unknown("optimizer", target, ", ".join(names))
    config.optimizer.name = names[name]
    config.learning_rate = reader.number("optimizer.optimizer.lr")
    b1, b2 = reader.take("optimizer.optimizer.betas", (config.optimizer.b1, config.optimizer.b2))
    if not (isinstance(b1, float | int) and isinstance(b2, float | int) and 0 <= b1 < 1 > b2 >= 0):
        raise ValueError(f"betas are {b1} and {b2}, not numbers from 0 to below 1")
    config.optimizer.b1, config.optimizer.b2 = float(b1), float(b2)
    config.optimizer.eps = reader.number("optimizer.optimizer.eps", config.optimizer.eps)
    config.optimizer.momentum = reader.number("optimizer.optimizer.momentum", 0.0)
    usual = 0.01 if name == "AdamW" else 0.0
    config.weight_decay = reader.number("optimizer.optimizer.weight_decay", usual)
    if config.weight_decay:
        config.optimizer.weight_decays = ((".*", config.weight_decay),)  # biases, too


def _schedule(reader: _Hyperparameters, config: ml_collections.ConfigDict) -> None:
    if not reader.flag("optimizer.use_lr_scheduler", False):
        config.schedule = "constant"
        reader.drop("scheduler.")
        return
    target = str(reader.take("scheduler._target_"))
    name = target.rpartition(".")[2]
    config.schedule_unit = "epoch"
    if name == "CosineAnnealingLR":
        config.schedule = "cosine"
        config.cosine.epochs = reader.number("scheduler.T_max")
        config.min_learning_rate = reader.number("scheduler.eta_min", 0.0)
    elif name == "CosineAnnealingWarmRestarts":
        config.schedule = "cosine_restarts"
        config.cosine.epochs = reader.number("scheduler.T_0")
        config.cosine.factor = reader.number("scheduler.T_mult", 1)
        config.min_learning_rate = reader.number("scheduler.eta_min", 0.0)
    elif name == "ReduceLROnPlateau":
        config.schedule = "plateau"
        config.plateau.factor = reader.number("scheduler.factor", 0.1)
        config.plateau.patience = reader.integer("scheduler.patience", 10)
        config.min_learning_rate = reader.number("scheduler.min_lr", 0.0)
    elif name == "OneCycleLR":
        config.schedule = "one_cycle"
        config.learning_rate = reader.number("scheduler.max_lr")
        config.one_cycle.rise = reader.number("scheduler.pct_start", 0.3)
        start = 1 / reader.number("scheduler.div_factor", 25.0)
        config.one_cycle.start_factor = start
        config.one_cycle.end_factor = start / reader.number("scheduler.final_div_factor", 1e4)
    else:
        known = "CosineAnnealingLR, CosineAnnealingWarmRestarts, OneCycleLR, ReduceLROnPlateau"
        raise _unknown("scheduler", target, known)


def use_text_encoder(imported: ImportedConfig, folder: str, is_causal: bool) -> None:
    """Sets the text encoder of a config to the folder or Hub id of a pretrained model.

    An existing folder becomes absolute, as the run may be resumed from elsewhere.
    """
    if folder != "minilm" and not is_url(folder) and _exists(str(Path(folder).expanduser())):
        folder = str(Path(folder).expanduser().absolute())
    encoder = imported.config.text_encoder
    encoder.pretrained = encoder.tokenizer = folder
    encoder.feature = "last" if is_causal else "first"
    imported.unmapped.pop("datamodule.tokenizer_model", None)


def use_data(imported: ImportedConfig) -> None:
    """Sets the data of the run, if they exist on this machine."""
    path = imported.unmapped.get("datamodule.data_path")
    if isinstance(path, str) and path and _exists(path):
        imported.config.dataset.name = "gpt_narratives"
        imported.config.dataset.path = str(path)
        del imported.unmapped["datamodule.data_path"]


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # not a valid file name
        return False
