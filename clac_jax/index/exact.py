"""Exact top-k over memory-mapped shards of unit vectors, block by block on all devices.

Measured on two CPU cores (`benchmarks/search.py`): JAX reads a block of a float16 file without a
copy and converts it inside the matrix product, so a float32 cache in memory saves nothing.
Blocks of a few thousand rows keep the converted values in the processor's cache.

Rounding to float16 changes the length of a unit vector by up to 1e-4, so every product is divided
by the length of its row. The lengths are computed in the first search and kept, 4 bytes per row:
within a block they would treble the time of a single query; kept, they add about 0.1 ms to that
of 6,317 rows, and nothing that can be measured to that of 262,144.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

BLOCK_ROWS = {"cpu": 8192}
"""Rows per block by platform; `ACCELERATOR_BLOCK_ROWS` elsewhere."""

ACCELERATOR_BLOCK_ROWS = 1 << 18
MAX_QUERIES = 32
"""Queries per pass over the vectors; more are searched in several passes."""

# A block's scores are float32 sums in an order that depends on the block's shape. The candidates
# are therefore scored again, each on its own in float64, and a few more than k are taken so that
# rounding cannot exclude one of the k best.
_SPARE_CANDIDATES = 16
_ROUNDING = 2e-6
_MISSING = -1
_SHORTEST = 1e-6  # shorter than any vector; keeps rows of zeros zero


@dataclasses.dataclass(frozen=True)
class Top:
    """The best rows for each query, best first.

    Attributes:
        rows: (q, k) int64; -1 where fewer than k rows are allowed.
        scores: (q, k) float32 products with the rows as unit vectors: cosines if the queries are
            unit vectors; -inf there.
    """

    rows: np.ndarray
    scores: np.ndarray


class ExactSearch:
    """Searches vectors that are stored in shards; opened once, used for any number of queries.

    Memory: on a CPU blocks are views of the files, with a few bytes per row of a block and query
    for scores; elsewhere two blocks at a time are copied to each device.

    Attributes:
        count: number of rows in all shards.
        dim: length of a vector.
    """

    count: int
    dim: int

    def __init__(self, shards: Sequence[np.ndarray], block_rows: int | None = None):
        """Takes the shards as they are; nothing is read yet.

        Args:
            shards: (n_i, d) float16 or float32, memory-mapped or not; row numbers count through
                the shards in order.
            block_rows: rows per block; None selects them by platform.

        Raises:
            ValueError: there is no shard, or the shards differ in the length of their vectors.
        """
        if not shards or len({shard.shape[1:] for shard in shards}) != 1:
            raise ValueError("the shards must be at least one array, all of the same dimension")
        self._shards = list(shards)
        self._starts = np.cumsum([0, *(len(shard) for shard in shards)])
        self.count = int(self._starts[-1])
        self.dim = int(shards[0].shape[1])
        by_platform = BLOCK_ROWS.get(jax.default_backend(), ACCELERATOR_BLOCK_ROWS)
        largest = max(len(shard) for shard in shards)
        # A power of two, so that indexes of all sizes share a few compiled programs.
        self._block = min(block_rows or by_platform, _next_power(max(largest, 1)))
        self._devices = jax.local_devices()
        self._scales: dict[int, np.ndarray] = {}  # first row of a block -> 1 / length of its rows

    def top(self, queries: np.ndarray, k: int, mask: np.ndarray | None = None) -> Top:
        """The k rows with the largest scores, among those that the mask allows.

        Rows with the same score are in the order of their numbers.

        Args:
            queries: (q, d) float32, finite.
            k: number of rows, at least 1.
            mask: (count,) bool, the rows to consider; None considers all.
        """
        queries = np.asarray(queries, np.float32)
        parts = [
            self._top(queries[start : start + MAX_QUERIES], k, mask)
            for start in range(0, len(queries), MAX_QUERIES)
        ]
        return Top(
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )

    def count_above(self, queries: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The number of all rows that have a larger score than given ones.

        Args:
            queries: (q, d) float32.
            scores: (q, k) float32; values that differ by less than 2e-6 count as equal.

        Returns:
            (q, k) int64.
        """
        counts = []
        for start in range(0, len(queries), MAX_QUERIES):
            stop = start + MAX_QUERIES
            padded = _padded_queries(np.asarray(queries[start:stop], np.float32))
            limits = np.full((len(padded), _next_power(scores.shape[1])), np.inf, np.float32)
            limits[: len(scores[start:stop]), : scores.shape[1]] = scores[start:stop] + _ROUNDING
            totals = np.zeros(limits.shape, np.int64)
            counted = self._each_block(_count_above, None, padded, limits)
            for _, _, total in counted:
                totals += np.asarray(total)
            counts.append(totals[: len(scores[start:stop]), : scores.shape[1]])
        return np.concatenate(counts)

    def scores(self, query: np.ndarray) -> np.ndarray:
        """(count,) float32, the score of every row for one (d,) query."""
        padded = _padded_queries(np.asarray(query, np.float32)[None])
        found = np.zeros(self.count, np.float32)
        for first, size, scored in self._each_block(_block_scores, None, padded):
            found[first : first + size] = np.asarray(scored)[0, :size]
        return found

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) float32, the vectors of given rows, of length 1; zeros where there is none."""
        return unit_rows(self._stored(rows))

    def _stored(self, rows: np.ndarray) -> np.ndarray:
        """(n, d) float32, the vectors of given rows as they are stored."""
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), self.dim), np.float32)
        owners = np.searchsorted(self._starts, rows, side="right") - 1
        for owner in np.unique(owners):
            here = owners == owner
            found[here] = self._shards[owner][rows[here] - self._starts[owner]]
        return found

    def _top(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Top:
        padded = _padded_queries(queries)
        wanted = min(_next_power(k + _SPARE_CANDIDATES), self._block)
        rows = [np.zeros((len(queries), 0), np.int64)]
        scores = [np.zeros((len(queries), 0), np.float32)]
        best = functools.partial(_block_top, k=wanted)
        for first, _, (values, places) in self._each_block(best, mask, padded):
            rows.append(np.asarray(places)[: len(queries)].astype(np.int64) + first)
            scores.append(np.asarray(values)[: len(queries)])
        all_rows, all_scores = np.concatenate(rows, 1), np.concatenate(scores, 1)
        # A stable sort: candidates are in the order of rows where block scores are equal.
        order = np.argsort(-all_scores, axis=1, kind="stable")[:, : k + _SPARE_CANDIDATES]
        chosen = np.take_along_axis(all_rows, order, 1)
        is_allowed = np.isfinite(np.take_along_axis(all_scores, order, 1))
        return self.ranked(queries, k, np.where(is_allowed, chosen, _MISSING))

    def ranked(self, queries: np.ndarray, k: int, candidates: np.ndarray) -> Top:
        """The k best of given candidates, by scores computed in float64.

        Args:
            queries: (q, d) float32.
            k: number of rows.
            candidates: (q, n) int64 rows, those of each query without repetition; -1 is skipped.
        """
        best_rows = np.full((len(queries), k), _MISSING, np.int64)
        best_scores = np.full((len(queries), k), -np.inf, np.float32)
        for number, query in enumerate(np.asarray(queries, np.float64)):
            rows = candidates[number][candidates[number] >= 0]
            stored = self._stored(rows).astype(np.float64)
            exact = (stored * query).sum(axis=1) / _lengths(stored)
            rounded = exact.astype(np.float32)
            order = np.lexsort((rows, -rounded))[:k]
            best_rows[number, : len(order)] = rows[order]
            best_scores[number, : len(order)] = rounded[order]
        return Top(best_rows, best_scores)

    def _each_block(
        self, compute: Callable[..., Any], mask: np.ndarray | None, *arguments: np.ndarray
    ) -> Iterator[tuple[int, int, Any]]:
        """(first row, number of rows, result) of each block, computed on the devices in turn.

        `compute` takes the vectors, 1 / their lengths, which of their rows are allowed, and the
        arguments. A few blocks are in flight at a time, which bounds the memory of an accelerator.
        """
        in_turn = itertools.cycle(
            [(device, jax.device_put(arguments, device)) for device in self._devices]
        )
        in_flight: collections.deque[tuple[int, int, Any]] = collections.deque()
        for first, block, valid in self._blocks(mask):
            device, given = next(in_turn)
            padded = _padded_to(block, self._block)
            if first not in self._scales:
                self._scales[first] = np.asarray(_inverse_lengths(padded))
            # On a CPU, `device_put` makes a view of a mapped file, not a copy.
            placed = jax.device_put((padded, self._scales[first], valid), device)
            in_flight.append((first, len(block), compute(*placed, *given)))
            if len(in_flight) > 2 * len(self._devices):
                yield in_flight.popleft()
        yield from in_flight

    def _blocks(self, mask: np.ndarray | None) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(first row, vectors, allowed rows) of each block that has allowed rows."""
        for shard, offset in zip(self._shards, self._starts[:-1], strict=True):
            for start in range(0, len(shard), self._block):
                block = shard[start : start + self._block]
                first = int(offset) + start
                valid = np.zeros(self._block, bool)
                valid[: len(block)] = True if mask is None else mask[first : first + len(block)]
                if valid.any():
                    yield first, block, valid


def _next_power(number: int) -> int:
    """The smallest power of two that is not less than a positive number."""
    return 1 << (number - 1).bit_length()


def _padded_to(array: np.ndarray, rows: int) -> np.ndarray:
    """The array with rows of zeros added at its end, if it has fewer."""
    if len(array) == rows:
        return array
    padded = np.zeros((rows, *array.shape[1:]), array.dtype)
    padded[: len(array)] = array
    return padded


def _padded_queries(queries: np.ndarray) -> np.ndarray:
    """Queries, padded to a power of two, so that few programs are compiled."""
    return _padded_to(queries, _next_power(len(queries)))


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """(n, d) float32: vectors divided by their lengths; rows of zeros stay zeros."""
    wide = np.asarray(vectors, np.float32)
    return np.asarray(wide / _lengths(wide)[:, None])


def _lengths(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(np.linalg.norm(vectors, axis=1), vectors.dtype.type(_SHORTEST)))


@jax.jit
def _inverse_lengths(block: jax.Array) -> jax.Array:
    return 1 / jnp.maximum(jnp.linalg.norm(block.astype(jnp.float32), axis=1), _SHORTEST)


def _scores(block: jax.Array, scales: jax.Array, queries: jax.Array) -> jax.Array:
    # In full precision: TF32 on a GPU would reorder close scores.
    highest = jax.lax.Precision.HIGHEST
    return jnp.dot(queries, block.astype(jnp.float32).T, precision=highest) * scales


@jax.jit
def _block_scores(
    block: jax.Array, scales: jax.Array, valid: jax.Array, queries: jax.Array
) -> jax.Array:
    return jnp.where(valid, _scores(block, scales, queries), -jnp.inf)


@functools.partial(jax.jit, static_argnames="k")
def _block_top(
    block: jax.Array, scales: jax.Array, valid: jax.Array, queries: jax.Array, k: int
) -> tuple[jax.Array, jax.Array]:
    scores = _block_scores(block, scales, valid, queries)
    values, places = jax.lax.top_k(scores, k)
    return values, places


@jax.jit
def _count_above(
    block: jax.Array, scales: jax.Array, valid: jax.Array, queries: jax.Array, limits: jax.Array
) -> jax.Array:
    scores = _block_scores(block, scales, valid, queries)
    return jnp.sum(scores[:, :, None] > limits[:, None, :], axis=1, dtype=jnp.int32)
