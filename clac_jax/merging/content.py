"""Pairs of arrays with the same numbers under different names."""

from __future__ import annotations

import collections
from collections.abc import Collection, Mapping

import numpy as np

from clac_jax.checkpoint.arrays import crc32_of
from clac_jax.checkpoint.sources import Arrays
from clac_jax.merging.rules_of_pairs import Pair

_WHY = "equal content"


def equal_pairs(
    arrays: Arrays, reference: Arrays, names: Mapping[str, Collection[str]]
) -> list[Pair]:
    """Pairs of a source's arrays and those of a reference with the same shape, type and numbers.

    For checkpoints of this program, their checksums are compared and no array is read. Arrays of
    other programs are read, and matrices are compared with their transposes, too. Numbers that
    several arrays share, such as zeros, say nothing.

    Args:
        arrays: a source.
        reference: a checkpoint of this program with the names of the model.
        names: part -> names in the source to look for.
    """
    contents = collections.defaultdict(list)
    for path, leaf in reference.leaves.items():
        contents[leaf.content].append(path)
    paths = [f"{part}/{name}" for part, some in names.items() for name in some]
    pairs = []
    for path, found in _contents(arrays, paths).items():
        part, _, name = path.partition("/")
        for transform, content in found.items():
            equal = contents.get(content, [])
            if len(equal) == 1 and equal[0].startswith(f"{part}/"):
                pairs.append(Pair((name,), (equal[0].partition("/")[2],), transform, _WHY))
                break
    counts = collections.Counter(pair.targets for pair in pairs)
    return [pair for pair in pairs if counts[pair.targets] == 1]


def _contents(arrays: Arrays, paths: list[str]) -> dict[str, dict[str, str]]:
    """Path -> transform -> content after it."""
    known = {path: arrays.leaves[path].content for path in paths if arrays.leaves[path].content}
    found = {path: {"": content} for path, content in known.items()}
    for path, array in arrays.read([path for path in paths if path not in known]).items():
        found[path] = {"": _content(array)}
        if array.ndim == 2:
            found[path]["transpose(1, 0)"] = _content(array.T)
    return found


def _content(array: np.ndarray) -> str:
    """As `sources.of_checkpoint` writes it, for an array that is saved in one piece."""
    return f"{array.dtype} {array.shape} {crc32_of(array)}"
