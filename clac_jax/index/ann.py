"""An approximate index for more than a million crystals, by FAISS (extra `[ann]`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from clac_jax.errors import UserError, error_reason
from clac_jax.files.atomic import replacing, write_atomically
from clac_jax.index.exact import unit_rows
from clac_jax.index.layout import (
    ANN,
    FORMAT,
    DamagedIndexError,
    IndexMismatchError,
    file_facts,
    read_sealed,
    sealed,
)
from clac_jax.index.store import Index

FILE = "ann.faiss"
KINDS = ("flat", "sq8")

SAMPLE = 256
"""Queries on which the recall is measured."""

TOP = 10
GOOD_RECALL = 0.99
_PER_LIST = 39  # fewest training vectors per list that FAISS accepts without a warning
_SAMPLED_PER_LIST = 128  # training vectors per list; more hardly change the lists


class AnnError(UserError):
    """An approximate index cannot be built or used."""


@dataclass(frozen=True)
class AnnOptions:
    """Options of `clac-jax index build --ann`.

    Attributes:
        kind: "flat" stores float32 vectors; "sq8" one byte per component, a quarter of the memory.
        lists: number of inverted lists; 0 chooses 4 sqrt(n).
        nprobe: lists that a query visits; 0 chooses the smallest power of 2 with a recall of
            GOOD_RECALL on the sample.
        seed: seed of the clustering and of the samples.

    Raises:
        AnnError: an option has a value that cannot be used.
    """

    kind: str = "flat"
    lists: int = 0
    nprobe: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise AnnError(f"There is no --kind={self.kind}. Use {' or '.join(KINDS)}.")
        for flag in ("lists", "nprobe"):
            if (value := getattr(self, flag)) < 0:
                raise AnnError(f"--{flag} is {value}. Use 1 or more, or 0 to have it chosen.")


@dataclass(frozen=True)
class Ann:
    """An approximate index, opened.

    Attributes:
        facts: content of `ann.json`: "kind", "lists", "nprobe", "recall", "seed", ...
    """

    facts: dict[str, Any]
    _index: Any

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The crystals nearest to some vectors, approximately.

        Args:
            queries: (q, dim) float32 unit vectors.
            k: number of crystals per query.

        Returns:
            Cosine similarities, (q, k) float32, highest first, and rows, (q, k) int64; where fewer
            than k are found, the rows are -1.
        """
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        return scores, rows


def build_ann(index: Index, options: AnnOptions) -> dict[str, Any]:
    """Writes `ann.faiss` and `ann.json` next to the vectors.

    The same vectors, options and version of FAISS give the same bytes.

    Returns:
        The content of `ann.json`, with the recall on the sample by nprobe.

    Raises:
        AnnError: FAISS is not installed, or there are too few crystals.
        WorkdirError: the files cannot be written.
    """
    faiss = _faiss()
    count = index.count
    if count < 2 * _PER_LIST:
        raise AnnError(
            f"{index.path} has {count} crystals, and an approximate index needs {2 * _PER_LIST}. "
            "The exact search is fast up to a million."
        )
    lists = options.lists or min(4 * math.isqrt(count), count // _PER_LIST)
    if lists > count // _PER_LIST:
        raise AnnError(
            f"--lists is {lists}, which is more than {count:,} crystals can be divided into. Use "
            f"{count // _PER_LIST} or fewer."
        )
    built = _empty(faiss, index.dim, lists, options)
    rng = np.random.default_rng(options.seed)
    sample = min(count, lists * _SAMPLED_PER_LIST)
    built.train(_rows(index.vector_shards(), np.sort(rng.choice(count, sample, replace=False))))
    for block in blocks(index):
        built.add(block)
    recall = _recall(index, built, rng, lists)
    nprobe = options.nprobe or min(
        (n for n, value in recall.items() if value >= GOOD_RECALL), default=lists
    )
    if nprobe not in recall:
        recall |= _recall(index, built, np.random.default_rng(options.seed), lists, (nprobe,))
    built.nprobe = nprobe
    path = index.path / FILE
    with replacing(path) as temporary:
        faiss.write_index(built, str(temporary))
    facts = {
        "format": FORMAT,
        "kind": options.kind,
        "lists": lists,
        "nprobe": nprobe,
        "seed": options.seed,
        "recall": {str(n): round(value, 4) for n, value in sorted(recall.items())},
        "queries": min(SAMPLE, count),
        "count": count,
        "vectors": vectors_checksum(index),
        "file": file_facts(path),
    }
    write_atomically(index.path / ANN, sealed(facts))
    return facts


def open_ann(index: Index) -> Ann | None:
    """The approximate index of an index; None if it has none.

    Raises:
        IndexMismatchError: it was built before crystals were added.
        DamagedIndexError: a file is damaged; `ann.faiss` is read only if its checksum is right.
        AnnError: FAISS is not installed.
    """
    if not (index.path / ANN).exists():
        return None
    facts = read_facts(index)
    if problem := damage(index, facts):
        raise DamagedIndexError(f"{index.path / FILE} {problem}. Run `clac-jax index build` again.")
    faiss = _faiss()
    try:
        opened = faiss.read_index(str(index.path / FILE))
    except RuntimeError as error:
        raise DamagedIndexError(
            f"{index.path / FILE} cannot be read ({error_reason(error)}). Run `clac-jax index "
            "build` again."
        ) from error
    opened.nprobe = int(facts["nprobe"])
    return Ann(facts, opened)


def read_facts(index: Index) -> dict[str, Any]:
    """The content of `ann.json`; errors as for `open_ann`."""
    facts = read_sealed(index.path / ANN, "an approximate index")
    if facts.get("vectors") != vectors_checksum(index):
        raise IndexMismatchError(
            f"{index.path / FILE} was built for other vectors than those of the index. Run "
            "`clac-jax index build --ann` again, or delete it and ann.json."
        )
    return facts


def damage(index: Index, facts: dict[str, Any]) -> str:
    """The damage to `ann.faiss` in words; "" if it is as it was written."""
    try:
        return "" if file_facts(index.path / FILE) == facts.get("file") else "is damaged"
    except OSError as error:
        return f"cannot be read ({error_reason(error)})"


def vectors_checksum(index: Index) -> str:
    """SHA-256 over the checksums of the crystal vectors, in order."""
    names = [shard["vectors"] for shard in index.info["shards"]]
    joined = "\n".join(index.files[name]["sha256"] for name in names)
    return hashlib.sha256(joined.encode()).hexdigest()


def blocks(index: Index, rows: int = 65_536) -> Iterator[np.ndarray]:
    """The crystal vectors in order, as (at most `rows`, dim) float32 unit vectors."""
    for shard in index.vector_shards():
        for start in range(0, len(shard), rows):
            yield unit_rows(shard[start : start + rows])


def _empty(faiss: Any, dim: int, lists: int, options: AnnOptions) -> Any:
    coarse = faiss.IndexFlatIP(dim)
    metric = faiss.METRIC_INNER_PRODUCT
    if options.kind == "flat":
        empty = faiss.IndexIVFFlat(coarse, dim, lists, metric)
    else:
        code = faiss.ScalarQuantizer.QT_8bit
        empty = faiss.IndexIVFScalarQuantizer(coarse, dim, lists, code, metric)
    empty.cp.seed = options.seed
    empty.cp.min_points_per_centroid = 1
    empty.cp.spherical = True
    return empty


def _recall(
    index: Index,
    built: Any,
    rng: np.random.Generator,
    lists: int,
    nprobes: tuple[int, ...] = (),
) -> dict[int, float]:
    """Nprobe -> share of the exact top 10 that is found, for a sample of texts or crystals."""
    shards = index.text_shards() or index.vector_shards()
    chosen = np.sort(rng.choice(index.count, min(SAMPLE, index.count), replace=False))
    queries = _rows(shards, chosen)
    queries = queries[np.isfinite(queries).all(axis=1) & queries.any(axis=1)]
    top = min(TOP, index.count)
    exact = _exact(index, queries, top)
    result = {}
    for nprobe in nprobes or tuple(1 << n for n in range(lists.bit_length()) if 1 << n <= lists):
        built.nprobe = nprobe
        found = built.search(queries, top)[1]
        hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
        result[nprobe] = sum(hits) / (top * max(1, len(queries)))
        if not nprobes and result[nprobe] >= 1.0:
            break
    return result


def _exact(index: Index, queries: np.ndarray, top: int) -> np.ndarray:
    """(q, top) rows with the highest products."""
    scores = np.zeros((len(queries), 0), np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    start = 0
    for block in blocks(index):
        new = queries @ block.T
        scores = np.concatenate([scores, new], axis=1)
        here = np.arange(start, start + len(block))
        rows = np.concatenate([rows, np.broadcast_to(here, new.shape)], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
        start += len(block)
    return rows


def _rows(shards: list[Any], rows: np.ndarray) -> np.ndarray:
    """Chosen rows, in ascending order, as float32 unit vectors."""
    found, start = [], 0
    for shard in shards:
        inside = rows[(rows >= start) & (rows < start + len(shard))] - start
        found.append(np.asarray(shard[inside]))
        start += len(shard)
    return unit_rows(np.concatenate(found))


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise AnnError(
            "An approximate index needs FAISS, which is not installed: "
            'pip install "clac-jax[ann]". Without it the search is exact.'
        ) from error
    return faiss
