"""Selection of the checkpoint for the final test: the best one that fits the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import jax

from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.averages import read_evaluated
from clac_jax.checkpoint.files import DamagedCheckpointError
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.renaming import STRICT_PARTS, part_of
from clac_jax.errors import warn

Shapes = Mapping[str, jax.ShapeDtypeStruct]


def read_best(
    intact: Mapping[int, CheckpointInfo], best_first: Sequence[int], shapes: Shapes, last_step: int
) -> tuple[int, Arrays]:
    """Reads the parameters and statistics of the best checkpoint that fits the model.

    A run's best checkpoint may predate a change of its architecture. A checkpoint that does not
    fit, or whose files are damaged, is skipped with a warning that names it.

    Args:
        intact: the run's checkpoints by step.
        best_first: steps in order of their validation, best first.
        shapes: slash path -> shape and dtype of every parameter and batch statistic of the model.
        last_step: step of the state in memory, which does not need to be read.

    Returns:
        The step and its arrays, in the dtypes of `shapes`; (`last_step`, {}) for the state in
        memory.
    """
    for info in best_fitting(intact, best_first, shapes, last_step):
        try:
            arrays = read_evaluated(info, shapes)
        except DamagedCheckpointError as error:
            warn(f"{error} The next best is tested.")
            continue
        return info.step, {
            path: array.astype(shapes[path].dtype, copy=False) for path, array in arrays.items()
        }
    return last_step, {}


def best_fitting(
    intact: Mapping[int, CheckpointInfo], best_first: Sequence[int], shapes: Shapes, last_step: int
) -> Iterator[CheckpointInfo]:
    """The checkpoints that are better than the state in memory and fit the model, best first.

    Arguments as for `read_best`; those that do not fit are reported.
    """
    for step in best_first:
        if step == last_step:
            break
        if step not in intact:
            continue
        info = intact[step]
        if why := misfit(info, shapes):
            warn(f"{info.folder} is not tested: {why}. The next best is tested.")
            continue
        yield info


def misfit(info: CheckpointInfo, shapes: Shapes) -> str:
    """Why a checkpoint's parameters and statistics do not fit a model; "" if they do."""
    saved = {path: leaf for path, leaf in info.leaves.items() if part_of(path) in STRICT_PARTS}
    missing = sorted(shapes.keys() - saved.keys())
    extra = sorted(saved.keys() - shapes.keys())
    reshaped = sorted(p for p in shapes if p in saved and saved[p].shape != shapes[p].shape)
    reasons = []
    if missing:
        reasons.append(f"it lacks {_some(missing)}")
    if extra:
        reasons.append(f"the model has no {_some(extra)}")
    if reshaped:
        path = reshaped[0]
        reasons.append(
            f"{_some(reshaped)} {'has' if len(reshaped) == 1 else 'have'} another shape "
            f"({saved[path].shape} for {shapes[path].shape})"
        )
    return "its parameters are not the model's: " + ", ".join(reasons) if reasons else ""


def _some(paths: Sequence[str]) -> str:
    return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
