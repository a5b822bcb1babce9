"""The facts and sentences shown with the hits of a search, kept for the next search."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from clac_jax.index.items import CONTENT
from clac_jax.index.store import Index
from clac_jax.text.sentences import split_sentences

MAX_ITEMS = 50_000
MAX_SMALL = 20_000
"""Items of an index that are all read at the first hit."""

MAX_SENTENCE_TEXTS = 10_000
"""Texts whose sentences are kept with their vectors: about 10 kB each for 256 dimensions."""

_STRUCTURE = frozenset(CONTENT.names) - {"text"}
_NAMES = ("id", "formula", "elements", "text")


class Recent(collections.OrderedDict[int, Any]):
    """Values by row; those used longest ago are dropped beyond a number of them."""

    def __init__(self, limit: int):
        super().__init__()
        self._limit = limit

    def fill(self, rows: Iterable[int], make: Callable[[list[int]], Mapping[int, Any]]) -> None:
        """Makes the values of the rows that are missing, and marks all of them as just used."""
        wanted = list(dict.fromkeys(rows))
        if missing := [row for row in wanted if row not in self]:
            self.update(make(missing))
        for row in wanted:
            self.move_to_end(row)
        while len(self) > max(self._limit, len(wanted)):
            self.popitem(last=False)


class Details:
    """Items and sentences of an index by row."""

    def __init__(self, index: Index, embed_texts: Callable[[Sequence[str]], np.ndarray]):
        """Reads nothing yet.

        Args:
            index: the index.
            embed_texts: embeds texts by the model of the index.
        """
        self._index = index
        self._embed_texts = embed_texts
        self._items = Recent(MAX_ITEMS)
        self._sentences = Recent(MAX_SENTENCE_TEXTS)

    def load(
        self, rows: Iterable[int], with_sentences: Iterable[int], max_new: int | None = None
    ) -> None:
        """Reads the items of rows, and embeds the sentences of some of them, all together.

        Args:
            rows: the rows.
            with_sentences: those of them whose sentences are needed.
            max_new: largest number of texts whose sentences are embedded now; None: all.
        """
        self._items.fill(rows, self._read)
        wanted = list(dict.fromkeys(with_sentences))
        new = [row for row in wanted if row not in self._sentences]
        skipped = set(new[max_new:] if max_new is not None else ())
        self._sentences.fill([row for row in wanted if row not in skipped], self._split)

    def of(self, row: int) -> tuple[str, str, dict[str, Any]]:
        """(id, formula, known properties) of a row that was loaded."""
        item = self._items[row]
        properties = {
            name: value for name, value in item.items() if name not in _NAMES and value is not None
        }
        return item["id"], item["formula"], properties

    def sentence(self, row: int, query: np.ndarray) -> str | None:
        """The sentence of a loaded row that is most similar to a query.

        None if it has no text, or if its sentences were more than `load` could embed.
        """
        sentences, vectors = self._sentences.get(row, ([], None))
        return sentences[int(np.argmax(vectors @ query))] if sentences else None

    def _read(self, rows: list[int]) -> dict[int, dict[str, Any]]:
        columns = [name for name in self._index.columns if name not in _STRUCTURE]
        if self._index.count <= min(MAX_SMALL, MAX_ITEMS):  # a few rows take as long as all
            rows = list(range(self._index.count))
        items = self._index.take(rows, columns).to_pylist()
        known = [{name: value for name, value in item.items() if value == value} for item in items]
        return dict(zip(rows, known, strict=True))  # without NaN

    def _split(self, rows: list[int]) -> dict[int, tuple[list[str], np.ndarray]]:
        texts = [self._items[row].get("text") for row in rows]
        split = [split_sentences(text) if text else [] for text in texts]
        pieces = [piece for sentences in split for piece in sentences]
        vectors = self._embed_texts(pieces) if pieces else np.zeros((0, self._index.dim))
        ends = np.cumsum([len(sentences) for sentences in split])
        starts = ends - [len(sentences) for sentences in split]
        return {
            row: (sentences, vectors[start:end])
            for row, sentences, start, end in zip(rows, split, starts, ends, strict=True)
        }
