"""The plan of an index: all that its bytes follow from, compared at every start."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import ml_collections
import numpy as np

from clac_jax.config.schema import to_plain
from clac_jax.crystals.crystal import Crystal
from clac_jax.index.layout import FORMAT, BuildError, IndexMismatchError
from clac_jax.index.sources import SourceOptions

SHARD_ROWS = 65_536
PART_ROWS = 1_024
"""Rows of the sources per part: what is lost at most when the program is killed."""

ON_BAD = ("error", "skip")

# Settings of a run that determine what its model computes from a crystal or a text.
_SETTINGS = (
    "task",
    "graph_encoder",
    "text_encoder",
    "projection_dim",
    "projection",
    "precision",
    "loss",
)


class EmbeddingModel(Protocol):
    """The part of `Model` that an index needs."""

    name: str
    config: ml_collections.FrozenConfigDict
    step: int
    dim: int
    is_dot_product: bool

    @property
    def checksum(self) -> str:
        """SHA-256 of the variables and settings used at inference."""

    def embed_crystals(
        self, crystals: list[Crystal], on_bad: Literal["raise", "nan"], progress: bool
    ) -> np.ndarray:
        """(n, dim) float32 unit vectors; with "nan", NaN for crystals that cannot be used."""

    def embed_texts(self, texts: list[str], progress: bool) -> np.ndarray:
        """(n, dim) float32 unit vectors."""


@dataclass(frozen=True)
class EmbedOptions:
    """Options of `embed` and `add`.

    Attributes:
        shard_rows: vectors per file.
        texts: whether the texts of the crystals are embedded too.
        on_bad: "error" stops at crystals that cannot be used and lists them; "skip" lists them in
            `refused.jsonl`.
        machine: (i, n), from 1: this process makes every n-th part, starting with part i.
        sources: how the crystals are read.

    Raises:
        BuildError: an option has a value that cannot be used.
    """

    shard_rows: int = SHARD_ROWS
    texts: bool = True
    on_bad: str = "error"
    machine: tuple[int, int] = (1, 1)
    sources: SourceOptions = field(default_factory=SourceOptions)

    def __post_init__(self) -> None:
        if self.shard_rows < 1:
            raise BuildError(f"--shard_rows is {self.shard_rows}. Use 1 or more.")
        if self.on_bad not in ON_BAD:
            raise BuildError(f"There is no --on_bad={self.on_bad}. Use {' or '.join(ON_BAD)}.")
        number, count = self.machine
        if not 1 <= number <= count:
            raise BuildError(
                f"--shard={number}/{count} is not one of 1/{count} to {count}/{count}. Give each "
                "machine a number from 1 to their count."
            )

    @property
    def part_rows(self) -> int:
        """Rows of the sources per part."""
        return min(PART_ROWS, self.shard_rows)


def require_indexable(model: EmbeddingModel) -> None:
    """Checks that the vectors of a model can be searched.

    Raises:
        BuildError: it is a property model, or its score is not a product of vectors.
    """
    if model.config.task == "property":
        raise BuildError(
            f"{model.name} predicts {model.config.property.name!r} and has no space that crystals "
            "and texts share. Give a contrastive model."
        )
    if not model.is_dot_product:
        raise BuildError(
            f"{model.name} compares crystals and texts by a {model.config.loss.critic!r} critic, "
            "which is not a product of their vectors: an index would rank them differently from "
            "the model. Use `similarity` of the model, or one trained with another loss."
        )


def make_plan(
    model: EmbeddingModel, fingerprint: str, options: EmbedOptions, base: str | None
) -> dict[str, Any]:
    """All that the bytes of an index follow from.

    Args:
        model: the model.
        fingerprint: that of the sources.
        options: the options of the command.
        base: checksum of the index that is added to; None for a new one.
    """
    return {
        "format": FORMAT,
        "model": model_facts(model),
        "fingerprint": fingerprint,
        "options": recorded(options),
        "part_rows": options.part_rows,
        "base": base,
    }


def model_facts(model: EmbeddingModel) -> dict[str, Any]:
    """The model as recorded in `index.json`."""
    config = to_plain(model.config)
    return {
        "name": model.name,
        "checksum": model.checksum,
        "step": int(model.step),
        "dim": int(model.dim),
        "is_dot_product": bool(model.is_dot_product),
        "config": {name: config[name] for name in _SETTINGS if name in config},
    }


def recorded(options: EmbedOptions) -> dict[str, Any]:
    """The options that change an index, by the names of their flags."""
    return {
        "shard_rows": options.shard_rows,
        "texts": options.texts,
        "on_formula_mismatch": options.sources.on_formula_mismatch,
    }


def require_same(folder: Path, plan: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compares the plan of a command with that of what is in the folder.

    Args:
        folder: the folder, for messages.
        plan: that of the command.
        found: that of the index, or of its unfinished parts.

    Raises:
        IndexMismatchError: they differ; the message says in what.
    """
    own, other = plan["model"], found["model"]
    if own["checksum"] != other["checksum"]:
        raise IndexMismatchError(
            f"{folder} belongs to the model {other['name']} (step {other['step']}, checksum "
            f"{other['checksum'][:12]}), and {own['name']} is another (checksum "
            f"{own['checksum'][:12]}). Use that model, or another --out."
        )
    if plan["fingerprint"] != found["fingerprint"]:
        raise IndexMismatchError(
            f"{folder} was made from other data (fingerprint {found['fingerprint'][:12]} instead "
            f"of {plan['fingerprint'][:12]}). Give the same crystals in the same order, another "
            "--out, or add these to it with `clac-jax index add`."
        )
    for name, value in plan["options"].items():
        if value != found["options"].get(name):
            raise IndexMismatchError(
                f"{folder} was made with {_flag(name, found['options'].get(name))}, and this "
                f"command has {_flag(name, value)}. Use the same, or another --out."
            )
    if plan["part_rows"] != found.get("part_rows", plan["part_rows"]):
        raise IndexMismatchError(
            f"{folder} was started by a version of clac_jax with parts of a different size. "
            "Delete its folder parts and run the command again."
        )
    if plan["base"] != found["base"]:
        raise IndexMismatchError(
            f"{folder} was changed after this addition was started. Delete its folder parts "
            "and run the command again."
        )


def with_options_of(options: EmbedOptions, info: Mapping[str, Any]) -> EmbedOptions:
    """The options of an addition: those of the index; texts only if it has their vectors."""
    stored = info["options"]
    sources = dataclasses.replace(
        options.sources, on_formula_mismatch=stored["on_formula_mismatch"]
    )
    return dataclasses.replace(
        options, shard_rows=stored["shard_rows"], texts=info["has_texts"], sources=sources
    )


def _flag(name: str, value: Any) -> str:
    if name == "texts":
        return "texts" if value else "--no_texts"
    return f"--{name}={value}"
