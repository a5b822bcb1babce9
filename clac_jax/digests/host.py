"""Digests of arrays in host memory, by NumPy: the reference of those on the devices."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from clac_jax.digests.digest import NUM_WORDS, TOTAL, Digest, odd_numbers, part_of, salt_of

_ROWS = 1 << 20  # words that are multiplied at a time, so that temporary arrays stay small


def array_digest(path: str, array: np.ndarray) -> Digest:
    """The digest of one array.

    Args:
        path: its slash path, such as "params/logit_scale".
        array: the array, of any dtype whose elements have 1, 2, 4, 8 or 16 bytes.
    """
    array = np.asarray(array)
    salt = salt_of(path, array.shape, array.dtype)
    words = words_of(array)
    result = []
    for word in range(NUM_WORDS):
        total = _weighted_sum(words, word)
        result.append(salt.add[word] + salt.multiply[word] * total)
    return Digest.of_words(result)


def array_digests(arrays: Mapping[str, np.ndarray]) -> dict[str, Digest]:
    """The digest of each array by slash path."""
    return {path: array_digest(path, array) for path, array in arrays.items()}


def state_digests(arrays: Mapping[str, np.ndarray]) -> dict[str, Digest]:
    """The digest of each part of a state, and of all of it.

    Args:
        arrays: slash path -> array.

    Returns:
        "params", "batch_stats", "opt_state", "counters" (the arrays at the top level) and "total".
    """
    return by_part(array_digests(arrays))


def by_part(digests: Mapping[str, Digest]) -> dict[str, Digest]:
    """The digest of each part of a state, and of all of it, from those of its arrays by path."""
    parts: dict[str, list[Digest]] = {}
    for path, digest in digests.items():
        parts.setdefault(part_of(path), []).append(digest)
    result = {part: Digest.sum(some) for part, some in parts.items()}
    return {**result, TOTAL: Digest.sum(digests.values())}


def words_of(array: np.ndarray) -> np.ndarray:
    """The bits of an array as uint32 words; elements of 8 bytes have a last axis of 2 words."""
    array = np.asarray(array, order="C")
    size = array.dtype.itemsize
    if size < 4:
        return array.view(f"u{size}").astype(np.uint32)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if size == 4:
        return little.view("<u4")
    return np.ascontiguousarray(little)[..., None].view("<u4").reshape(*array.shape, size // 4)


def _weighted_sum(words: np.ndarray, word: int) -> int:
    if words.size == 0:
        return 0
    if words.ndim == 0:
        return int(_turned(words, word))
    numbers = odd_numbers(word, 0, words.shape[-1])
    rows = words.reshape(-1, words.shape[-1])
    sums = np.zeros(len(rows), np.uint32)
    step = max(1, _ROWS // max(1, words.shape[-1]))
    for first in range(0, len(rows), step):
        some = slice(first, first + step)
        products = _turned(rows[some], word) * numbers
        sums[some] = products.sum(axis=-1, dtype=np.uint32)
    for axis, size in enumerate(reversed(words.shape[:-1]), start=1):
        products = sums.reshape(-1, size) * odd_numbers(word, axis, size)
        sums = products.sum(axis=-1, dtype=np.uint32)
    return int(sums.sum(dtype=np.uint32))


def _turned(words: np.ndarray, word: int) -> np.ndarray:
    """The words, for the second word of a digest with their halves swapped."""
    if word == 0:
        return words
    return (words << np.uint32(16)) | (words >> np.uint32(16))
