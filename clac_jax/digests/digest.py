"""The digest of an array, and the numbers that it is made with.

The bits of an array are read as 32-bit words in C order: one per element of up to 4 bytes (smaller
ones are extended with zeros), two per element of 8 bytes, in a last axis of its own. Each of the
two words of a digest is

    add + multiply * sum over the array of (word * product of the odd numbers of its position)

modulo 2**32, where each axis has a table with one odd number per position, and `add` and the odd
`multiply` depend on the path, the shape and the dtype. For the second word of the digest, the
halves of each word of the array are swapped, since the last bits of floats are often zero.

An odd factor maps different words to different products, so a change of any bits within one word of
the array, of a single bit in particular, changes both words of the digest for certain. Any other
change does with a probability of about 1 - 2**-64 if the bits are arbitrary. Integers are added
without rounding, so the digest depends neither on the order of the sum nor on how the array is
divided among devices.

It finds faults, not forgeries: an array with a given digest can be constructed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

NUM_WORDS = 2
TOTAL = "total"
METRIC_PREFIX = "digest/"  # of the names of digests among the metrics of a step
COUNTERS = "counters"  # the part of the arrays at the top level: step, key, learning_rate_scale
SCALE = "learning_rate_scale"  # set by validations and healing, so after the digests of a step
_MASK = (1 << 32) - 1


@dataclass(frozen=True, order=True)
class Digest:
    """Two 32-bit words.

    Attributes:
        first: the first word.
        second: the second word.
    """

    first: int
    second: int

    @classmethod
    def of_words(cls, words: Any) -> Digest:
        """The digest with these (2,) words."""
        first, second = words
        return cls(int(first) & _MASK, int(second) & _MASK)

    @classmethod
    def of_text(cls, text: str) -> Digest:
        """The inverse of `str`.

        Raises:
            ValueError: it is not 16 hexadecimal digits.
        """
        if len(text) != 16:
            raise ValueError(f"{text!r} is not 16 hexadecimal digits")
        return cls(int(text[:8], 16), int(text[8:], 16))

    @classmethod
    def sum(cls, digests: Iterable[Digest]) -> Digest:
        """The digest of several arrays: the sum of theirs, word by word."""
        pairs = [(each.first, each.second) for each in digests]
        return cls.of_words([sum(column) for column in zip(*pairs, strict=True)] or (0, 0))

    def __add__(self, other: Digest) -> Digest:
        return Digest.of_words((self.first + other.first, self.second + other.second))

    def __sub__(self, other: Digest) -> Digest:
        return Digest.of_words((self.first - other.first, self.second - other.second))

    def __str__(self) -> str:
        return f"{self.first:08x}{self.second:08x}"


NO_DIGESTS: Mapping[str, Digest] = MappingProxyType({})


@dataclass(frozen=True)
class Salt:
    """The numbers that distinguish the digests of two arrays that have equal bits.

    Attributes:
        add: the constant term of each word.
        multiply: the odd factor of each word.
    """

    add: tuple[int, int]
    multiply: tuple[int, int]


def salt_of(path: str, shape: Sequence[int], dtype: Any) -> Salt:
    """The salt of an array.

    Args:
        path: slash path, such as "params/logit_scale".
        shape: shape of the entire array.
        dtype: its dtype.
    """
    facts = f"{path} {tuple(int(size) for size in shape)} {np.dtype(dtype).name}"
    hashed = hashlib.blake2b(facts.encode(), digest_size=16).digest()
    words = [int(word) for word in np.frombuffer(hashed, "<u4")]
    return Salt((words[0], words[1]), (words[2] | 1, words[3] | 1))


def odd_numbers(word: int, axis: int, size: int) -> np.ndarray:
    """(size,) uint32, the odd numbers of the positions along an axis.

    Args:
        word: 0 or 1, the word of the digest.
        axis: the axis, counted from the last one: 0, 1, ...
        size: length of the axis.
    """
    table = _table(word, axis, max(1024, 1 << (size - 1).bit_length() if size else 0))
    return table[:size]


def part_of(path: str) -> str:
    """The part of the state that an array belongs to: the first name in its path."""
    part, slash, _ = path.partition("/")
    return part if slash else COUNTERS


def until_saved(digests: Mapping[str, Digest]) -> dict[str, Digest]:
    """The digests of a step that its checkpoint must have as well.

    Leaves out `COUNTERS` and `TOTAL`: `SCALE`, which they include, may be set in between.
    """
    return {name: digest for name, digest in digests.items() if name not in (COUNTERS, TOTAL)}


@functools.lru_cache(maxsize=64)
def _table(word: int, axis: int, size: int) -> np.ndarray:
    """A prefix of an endless table, by the mixing function of SplitMix64."""
    x = np.arange(size, dtype=np.uint64) + np.uint64(1)
    x *= np.uint64(0x9E3779B97F4A7C15)
    x += np.uint64((2 * axis + word + 1) * 0xD1B54A32D192ED03 & (1 << 64) - 1)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    table = (x >> np.uint64(32)).astype(np.uint32) | np.uint32(1)
    table.flags.writeable = False
    return table
