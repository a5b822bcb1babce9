"""The average of the models of several checkpoints, as the only checkpoint of a new workdir."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clac_jax.chain.record import digest_of
from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.averages import evaluated_path, read_evaluated
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.lineage import arrays_digest
from clac_jax.checkpoint.made_from import Ingredient
from clac_jax.checkpoint.single import ModelFacts, save_single
from clac_jax.config.run import all_keys
from clac_jax.config.schema import flatten, from_plain, with_defaults
from clac_jax.errors import UserError, counted, shown
from clac_jax.surgery.mixing import Mean

PARTS = ("params/", "batch_stats/")
_SHOWN = 3  # differences in a message
_BLOCK = 1 << 26  # bytes of the arrays that are read together


class UnlikeModelsError(UserError):
    """Models cannot be averaged: they do not have the same arrays, or compute different things."""


def model_paths(info: CheckpointInfo) -> list[str]:
    """The paths of the arrays of a checkpoint's model: parameters and batch statistics."""
    return [path for path in info.leaves if path.startswith(PARTS)]


def check_alike(infos: Sequence[CheckpointInfo]) -> None:
    """Checks that models can be averaged: same names, shapes and dtypes, same kind of model.

    Raises:
        UnlikeModelsError: the message names the first differences.
    """
    first = infos[0]
    for other in infos[1:]:
        if found := _differences(first, other):
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise UnlikeModelsError(
                f"{shown(other.folder)} cannot be averaged with {shown(first.folder)}: "
                f"{'; '.join(found[:_SHOWN])}{more}. Give checkpoints of one architecture."
            )


def average(infos: Sequence[CheckpointInfo], weights: Sequence[float]) -> Arrays:
    """The weighted mean of what the runs of several checkpoints evaluated.

    Means are computed in float64 and rounded once, to the dtype of the array. Arrays that are equal
    in all checkpoints stay as they are, bit for bit. Besides the result, memory holds a few arrays
    at a time.

    Args:
        infos: the checkpoints, which `check_alike` accepts.
        weights: their weights, which add up to 1.

    Returns:
        Slash path -> array, of the parameters and batch statistics.

    Raises:
        UnlikeModelsError: arrays of whole numbers differ.
        DamagedCheckpointError: a file differs from what was written; the message names it.
    """
    result: Arrays = {}
    for paths in _blocks(infos[0]):
        means: dict[str, Mean] = {}
        for info, weight in zip(infos, weights, strict=True):
            for path, array in read_evaluated(info, paths).items():
                if path not in means:
                    means[path] = Mean(array, weight)
                    continue
                try:
                    means[path].add(array, weight)
                except ValueError as error:
                    raise UnlikeModelsError(
                        f"{path} of {shown(info.folder)} cannot be averaged: {error}. Leave out "
                        "this checkpoint."
                    ) from error
        result |= {path: mean.result() for path, mean in means.items()}
    return result


def save_average(
    workdir: Path,
    infos: Sequence[CheckpointInfo],
    arrays: Arrays,
    made_from: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
) -> str:
    """Saves an average as the only checkpoint of a new workdir, without optimizer state.

    Its config is that of the first checkpoint, its position that of the furthest one.

    Args:
        workdir: a new folder.
        infos: the checkpoints.
        arrays: result of `average`.
        made_from: see `clac_jax.checkpoint.made_from`.
        metrics: results of its validation; None if it has not been validated.

    Returns:
        Path of the checkpoint's folder.

    Raises:
        NotEmptyError, WorkdirError, CheckpointError: see `save_single`.
    """
    furthest, first = max(infos, key=lambda info: info.step), infos[0]
    # A model knows the data of all parts of it, or says nothing.
    data = dict(set.intersection(*(set(info.data.items()) for info in infos)))
    facts = ModelFacts(furthest.progress, metrics, first.num_train_examples, data, made_from)
    return save_single(workdir, from_plain(first.config), arrays, facts)


def ingredients(infos: Sequence[CheckpointInfo], weights: Sequence[float]) -> list[Ingredient]:
    """The checkpoints of an average, as its own checkpoint names them."""
    return [
        Ingredient(
            checkpoint=shown(info.folder),
            step=info.step,
            weight=weight,
            arrays=arrays_digest(info),
            record=None if info.record is None else digest_of(dict(info.record)),
        )
        for info, weight in zip(infos, weights, strict=True)
    ]


def describe_average(infos: Sequence[CheckpointInfo]) -> str:
    """A line on the arrays of an average: how many differ, how many are equal in all."""
    paths = model_paths(infos[0])
    equal = sum(_is_equal_in_all(infos, path) for path in paths)
    size = sum(_bytes(infos[0], path) for path in paths)
    return (
        f"{counted(len(paths), 'array')}, {size / 1e6:.1f} MB: {len(paths) - equal} averaged in "
        f"float64, {equal} equal in all checkpoints"
    )


def has_statistics(info: CheckpointInfo) -> bool:
    """Whether a model has batch statistics."""
    return any(path.startswith("batch_stats/") for path in info.leaves)


def _differences(a: CheckpointInfo, b: CheckpointInfo) -> list[str]:
    """The differences that prevent an average of two models, in words."""
    of_a, of_b = ({path: _described(info, path) for path in model_paths(info)} for info in (a, b))
    found = [f"only the first has {path}" for path in of_a if path not in of_b]
    found += [f"only the second has {path}" for path in of_b if path not in of_a]
    found += [
        f"{path} is {of_a[path]} in the first and {of_b[path]} in the second"
        for path in of_a
        if path in of_b and of_a[path] != of_b[path]
    ]
    flat_a, flat_b = (flatten(with_defaults(info.config)) for info in (a, b))
    return found + [
        f"{name} was {flat_a.get(name)!r} and {flat_b.get(name)!r}"
        for name, key in sorted(all_keys().items())
        if key.validation == "model" and flat_a.get(name) != flat_b.get(name)
    ]


def _described(info: CheckpointInfo, path: str) -> str:
    leaf = info.leaves[evaluated_path(info, path)]
    return f"{leaf.dtype} {leaf.shape}"


def _bytes(info: CheckpointInfo, path: str) -> int:
    leaf = info.leaves[evaluated_path(info, path)]
    return math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize


def _is_equal_in_all(infos: Sequence[CheckpointInfo], path: str) -> bool:
    leaves = [info.leaves[evaluated_path(info, path)] for info in infos]
    return all(
        (leaf.checksums, leaf.grid) == (leaves[0].checksums, leaves[0].grid) for leaf in leaves
    )


def _blocks(info: CheckpointInfo) -> Iterator[list[str]]:
    """The paths of a model's arrays, in groups that fit into memory several times."""
    block: list[str] = []
    size = 0
    for path in model_paths(info):
        if block and size + _bytes(info, path) > _BLOCK:
            yield block
            block, size = [], 0
        block.append(path)
        size += _bytes(info, path)
    if block:
        yield block
