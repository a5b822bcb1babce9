"""Positions on the map: principal components or UMAP, the same bytes for the same seed."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clac_jax.crystals.objects import MissingPackageError
from clac_jax.errors import UserError

LAYOUTS = ("pca", "umap")
NEIGHBOURS = 15
"""Neighbours per point in UMAP: local structure without tearing small data sets apart."""
SHOWN = 0.999
"""Share of the points inside the square from -1 to 1; a few outliers are farther out."""
BLOCK = 65_536
"""Rows converted to float64 at a time."""


class MapError(UserError, ValueError):
    """A map cannot be made from this index or with these options."""


@dataclass(frozen=True)
class Layout:
    """Positions of crystals and texts.

    Attributes:
        crystals: (N, 2) float32; most are within [-1, 1].
        texts: (M, 2) float32, in the same plane.
        name: one of `LAYOUTS`.
        seed: the seed of UMAP; has no effect on "pca".
        explained: (2,) float, share of the variance along each axis; None for UMAP.
    """

    crystals: np.ndarray
    texts: np.ndarray
    name: str
    seed: int
    explained: tuple[float, float] | None


def lay_out(
    crystals: Sequence[np.ndarray], texts: Sequence[np.ndarray], name: str, seed: int
) -> Layout:
    """Positions of crystals and texts in one plane.

    A contrastive model keeps crystals and texts in two separate cones. The mean of each is
    subtracted first; otherwise the first axis shows nothing but that gap.

    Args:
        crystals: blocks (rows, d) of unit vectors of crystals; memory-mapped ones are not copied.
        texts: blocks (rows, d) of unit vectors of texts, or none.
        name: "pca" or "umap".
        seed: makes UMAP repeatable on one machine, which then runs on one core.

    Raises:
        MapError: there are fewer than three crystals, or the layout is unknown.
        MissingPackageError: UMAP is requested and umap-learn is not installed.
    """
    if name not in LAYOUTS:
        raise MapError(f"{name!r} is not a layout. Use one of {', '.join(LAYOUTS)}.")
    groups = [list(crystals), *([list(texts)] if texts else [])]
    if sum(map(len, groups[0])) < 3:
        raise MapError("A map needs at least three crystals. Add some to the index.")
    means = [_mean(blocks) for blocks in groups]
    axes, explained = _axes(groups, means)
    planes = [_project(blocks, mean, axes) for blocks, mean in zip(groups, means, strict=True)]
    if name == "umap":
        start = np.concatenate(planes)
        vectors = np.concatenate(
            [_project(blocks, mean, None) for blocks, mean in zip(groups, means, strict=True)]
        )
        plane = _umap(vectors, start, seed)
        planes = np.split(plane, [len(planes[0])])[: len(planes)]
    planes = _scaled(planes)
    return Layout(
        planes[0],
        planes[1] if texts else np.zeros((0, 2), np.float32),
        name,
        seed,
        explained if name == "pca" else None,
    )


def _blocks(group: list[np.ndarray]) -> list[np.ndarray]:
    return [shard[i : i + BLOCK] for shard in group for i in range(0, len(shard), BLOCK)]


def _mean(group: list[np.ndarray]) -> np.ndarray:
    total = sum(np.asarray(block, np.float64).sum(axis=0) for block in _blocks(group))
    return np.asarray(total / sum(map(len, group)))


def _axes(
    groups: list[list[np.ndarray]], means: list[np.ndarray]
) -> tuple[np.ndarray, tuple[float, float]]:
    """The two principal axes, (d, 2), with a fixed sign, and their shares of the variance."""
    covariance = np.zeros((len(means[0]),) * 2)
    for group, mean in zip(groups, means, strict=True):
        for block in _blocks(group):
            centred = np.asarray(block, np.float64) - mean
            covariance += centred.T @ centred
    values, vectors = np.linalg.eigh(covariance)
    axes = vectors[:, :-3:-1]
    # An eigenvector has no sign of its own: its largest component is made positive.
    largest = axes[np.abs(axes).argmax(axis=0), range(2)]
    total = values.sum() or 1.0
    return axes * np.where(largest < 0, -1.0, 1.0), (
        float(values[-1] / total),
        float(values[-2] / total),
    )


def _project(group: list[np.ndarray], mean: np.ndarray, axes: np.ndarray | None) -> np.ndarray:
    """Centred vectors, projected on the axes (N, 2), or scaled to length 1 (N, d) for None."""
    rows = []
    for block in _blocks(group):
        centred = np.asarray(block, np.float64) - mean
        if axes is None:
            lengths = np.linalg.norm(centred, axis=1, keepdims=True)
            rows.append((centred / np.maximum(lengths, 1e-12)).astype(np.float32))
        else:
            rows.append(centred @ axes)
    return np.concatenate(rows)


def _umap(vectors: np.ndarray, start: np.ndarray, seed: int) -> np.ndarray:
    """UMAP from the principal components, so that its orientation is theirs."""
    try:
        with warnings.catch_warnings():
            # Its neural variant, which is not used, needs TensorFlow.
            warnings.simplefilter("ignore", ImportWarning)
            import umap
    except ImportError as error:
        raise MissingPackageError(
            'The layout "umap" needs umap-learn. Install it with: pip install "clac-jax[umap]", '
            "or use --layout pca."
        ) from error
    spread = start / (np.abs(start).max() or 1.0) * 10
    reducer = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(vectors) - 1),
        min_dist=0.15,
        metric="cosine",
        init=spread.astype(np.float32),
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(reducer.fit_transform(vectors), np.float64)


def _scaled(planes: list[np.ndarray]) -> list[np.ndarray]:
    """Moves and scales both axes alike, so that nearly all points are within [-1, 1]."""
    together = np.concatenate(planes)
    low, high = np.quantile(together, [(1 - SHOWN) / 2, (1 + SHOWN) / 2], axis=0)
    scale = float((high - low).max()) / 2 or 1.0
    return [((plane - (low + high) / 2) / scale).astype(np.float32) for plane in planes]
