"""`clac-jax index check`: compares every byte of an index, and its content, with `index.json`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from clac_jax.distributed.workdir import LOCK_FILE
from clac_jax.errors import UserError, error_reason
from clac_jax.index import ann
from clac_jax.index.layout import ANN, CONTENTS, MAP, PARTS, file_facts, is_map

if TYPE_CHECKING:
    from clac_jax.index.store import Index

NORM_TOLERANCE = 2e-3
"""Largest deviation of the norm of a stored vector from 1; rounding to float16 changes it by
at most 2^-11, and by little more where components are subnormal."""

_ROWS = 4096


def problems(index: Index) -> list[str]:
    """One line per problem, naming the file; empty if there is none."""
    found = _bytes(index)
    found += _ann(index)
    found += _extra(index)
    damaged = {line.split(":")[0] for line in found}
    try:
        found += _content(index, damaged)
    except UserError as error:
        found.append(str(error))
    return found


def _bytes(index: Index) -> list[str]:
    found = []
    for name, facts in sorted(index.files.items()):
        try:
            if file_facts(index.path / name) != facts:
                found.append(f"{name}: DAMAGED, its checksum does not match")
        except OSError as error:
            found.append(f"{name}: cannot be read ({error_reason(error)})")
    return found


def _ann(index: Index) -> list[str]:
    if not (index.path / ANN).exists():
        return []
    try:
        problem = ann.damage(index, ann.read_facts(index))
    except UserError as error:
        return [f"{ANN}: {error}"]
    return [f"{ann.FILE}: {problem}"] if problem else []


def _extra(index: Index) -> list[str]:
    known = {*index.files, CONTENTS, LOCK_FILE}
    if (index.path / ANN).exists():
        known |= {ANN, ann.FILE}
    found = []
    for path in sorted(index.path.iterdir()):
        if path.name == PARTS:
            found.append(f"{PARTS}: an unfinished addition; run its command again, or delete it")
        elif path.name not in known and not (path.name == MAP and is_map(path)):
            found.append(f"{path.name}: not a file of this index; delete it")
    return found


def _content(index: Index, damaged: set[str]) -> list[str]:
    if damaged & {part["file"] for part in index.info["items"]}:
        return []
    table = index.items(["id", "text"])
    found = []
    if len(set(table["id"].to_pylist())) < index.count:
        found.append(f"{index.info['items'][0]['file']}: ids are repeated")
    has_text = np.array([bool(text) for text in table["text"].is_valid().to_pylist()])
    for shard, vectors in zip(index.info["shards"], index.vector_shards(), strict=True):
        if shard["vectors"] not in damaged:
            found += _norms(shard["vectors"], vectors, np.ones(len(vectors), bool))
    start = 0
    for shard, vectors in zip(index.info["shards"], index.text_shards(), strict=False):
        if shard["texts"] not in damaged:
            found += _norms(shard["texts"], vectors, has_text[start : start + len(vectors)])
        start += len(vectors)
    return found


def _norms(name: str, vectors: np.ndarray, is_unit: np.ndarray) -> list[str]:
    """Checks that the rows are unit vectors, or zero where there is nothing."""
    for start in range(0, len(vectors), _ROWS):
        block = np.asarray(vectors[start : start + _ROWS], np.float32)
        norms = np.linalg.norm(block, axis=1)
        wanted = is_unit[start : start + _ROWS].astype(np.float32)
        bad = np.flatnonzero(~(np.abs(norms - wanted) <= NORM_TOLERANCE))  # also where not finite
        if len(bad):
            norm, row = norms[bad[0]], start + int(bad[0])
            return [f"{name}: row {row} has the norm {norm:.4g} instead of {wanted[bad[0]]:.0f}"]
    return []
