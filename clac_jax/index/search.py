"""Searching an index: queries, conditions and hits."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from clac_jax.errors import UserError
from clac_jax.index import filters
from clac_jax.index.exact import ExactSearch
from clac_jax.index.items import CONTENT
from clac_jax.index.query import Query, QueryError, combined
from clac_jax.index.store import Index
from clac_jax.text.sentences import split_sentences

MAX_K = 10_000
_SENTENCE_TEXTS = 4096  # hits whose sentences are kept with their vectors
_NOT_PROPERTIES = frozenset(("id", "formula", "elements", *CONTENT.names))


class QueryModel(Protocol):
    """The parts of a `Model` that a search uses."""

    name: str
    dim: int

    @property
    def checksum(self) -> str:
        """SHA-256 of the variables and settings used at inference."""

    def embed_crystals(self, crystals: Sequence[Any]) -> np.ndarray:
        """(n, dim) float32 unit vectors."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """(n, dim) float32 unit vectors."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Which hits to return.

    Attributes:
        k: number of hits; fewer if the conditions allow fewer.
        where: a condition on the items (see `filters`); None allows all.
        min_score: the smallest score of a hit; None allows all.
        sentences: whether to find the sentence of each hit's text that matches best.

    Raises:
        QueryError: k is out of range.
    """

    k: int = 10
    where: str | None = None
    min_score: float | None = None
    sentences: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise QueryError(f"k is {self.k}. Ask for 1 to {MAX_K:,} hits.")


@dataclasses.dataclass(frozen=True)
class Hit:
    """A crystal that was found.

    Attributes:
        row: its row in the index.
        id: its id.
        formula: its reduced formula, elements in alphabetical order.
        score: cosine of its vector and the query, -1 to 1.
        percentile: percentage of all crystals of the index, whether or not they meet the
            condition, that do not score higher: 100 for the best of all.
        sentence: the sentence of its text that matches the query best; None without a text.
        properties: column -> value, for the known ones.
    """

    row: int
    id: str
    formula: str
    score: float
    percentile: float
    sentence: str | None
    properties: dict[str, float | int | str | bool]


@dataclasses.dataclass(frozen=True)
class TextHit:
    """A text that was found for a query: its number, score, and for a text of the index its id."""

    row: int
    score: float
    text: str
    id: str | None = None


class Searcher:
    """An index with its model, ready for any number of searches."""

    def __init__(self, index: Index, model: QueryModel):
        """Opens the vectors.

        Raises:
            IndexMismatchError: the index was made by another model.
            DamagedIndexError: a file of vectors cannot be read.
        """
        index.require_model(model)
        self.index = index
        self.model = model
        self.exact = ExactSearch(index.vector_shards())
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._sentences: collections.OrderedDict[int, tuple[list[str], np.ndarray]] = (
            collections.OrderedDict()
        )

    def search(self, query: Query, options: Options | None = None) -> list[Hit]:
        """The best crystals for one query, best first; rows with equal scores in order.

        Raises:
            QueryError: the query cannot be searched for.
            FilterError: the condition cannot be used.
            InputError: a crystal or text of the query cannot be embedded.
        """
        return self.search_many([(query, options or Options())])[0]

    def search_many(self, requests: Sequence[tuple[Query, Options]]) -> list[list[Hit]]:
        """Several searches together: one pass through the models, one per condition over vectors.

        Raises:
            QueryError, FilterError, InputError: as for `search`, for any of the requests.
        """
        if not requests:
            return []
        queries = self.vectors([query for query, _ in requests])
        groups: dict[str | None, list[int]] = {}
        for number, (_, options) in enumerate(requests):
            groups.setdefault(options.where, []).append(number)
        found: list[list[Hit]] = [[] for _ in requests]
        for where, numbers in groups.items():
            mask = None if where is None else self.mask(where)
            k = min(max(requests[number][1].k for number in numbers), self.index.count)
            top = self.exact.top(queries[numbers], k, mask)
            percentiles = self._percentiles(queries[numbers], top.scores, mask)
            for place, number in enumerate(numbers):
                options = requests[number][1]
                is_hit = (top.rows[place] >= 0) & (np.arange(k) < options.k)
                if options.min_score is not None:
                    is_hit &= top.scores[place] >= options.min_score
                columns = (top.rows[place], top.scores[place], percentiles[place])
                rows, scores, shares = (values[is_hit] for values in columns)
                query = queries[number] if options.sentences else None
                found[number] = self._hits(rows, scores, shares, query)
        return found

    def vectors(self, queries: Sequence[Query]) -> np.ndarray:
        """(n, dim) float32 unit vectors of queries; all texts are embedded together.

        Raises:
            QueryError, InputError: a query cannot be searched for.
        """
        texts = [text for query in queries for text in (*query.texts, *query.not_texts)]
        crystals = [crystal for query in queries for crystal in query.crystals]
        rows = [self._checked(row) for query in queries for row in query.rows]
        none = np.zeros((0, self.model.dim), np.float32)
        of_texts = iter(self.model.embed_texts(texts) if texts else none)
        of_crystals = iter(self.model.embed_crystals(crystals) if crystals else none)
        of_rows = iter(self.exact.vectors(np.array(rows, np.int64)))
        vectors = []
        for query in queries:
            wanted = [next(of_texts) for _ in query.texts]
            unwanted = [next(of_texts) for _ in query.not_texts]
            wanted += [next(of_crystals) for _ in query.crystals]
            wanted += [next(of_rows) for _ in query.rows]
            vectors.append(
                combined(_stacked(wanted, none), _stacked(unwanted, none), query.not_weights)
            )
        return np.stack(vectors)

    def mask(self, where: str) -> np.ndarray:
        """(count,) bool, the rows that meet a condition.

        Raises:
            FilterError: it cannot be used.
        """
        condition = filters.parse(where, self.index.schema)
        missing = [name for name in condition.columns if name not in self._columns]
        if missing:
            table = self.index.items(missing)
            self._columns.update((name, table.column(name)) for name in missing)
        if not condition.columns:  # a condition without a column does not exist
            return np.ones(self.index.count, bool)
        return condition.mask(pa.table({name: self._columns[name] for name in condition.columns}))

    def texts(self, query: Query, k: int, captions: Sequence[str] | None = None) -> list[TextHit]:
        """The texts that match a query best, usually a crystal.

        Args:
            query: the query.
            k: number of texts.
            captions: the texts to choose from; None: those of the index, one hit per crystal.

        Raises:
            QueryError: the index has no vectors of texts, or the query cannot be searched for.
            InputError: a caption is empty.
        """
        vector = self.vectors([query])
        if captions is not None:
            embedded = self.model.embed_texts(captions)
            top = ExactSearch([embedded]).top(vector, min(k, len(captions)))
            pairs = zip(top.rows[0].tolist(), top.scores[0].tolist(), strict=True)
            return [TextHit(row, score, captions[row]) for row, score in pairs]
        if not self.index.has_texts:
            raise QueryError(
                f"{self.index.path} has no vectors of texts. Make it again without --no_texts, or "
                "give the texts to choose from."
            )
        mask = np.asarray(self.index.items(["text"])["text"].is_valid())
        shards = ExactSearch(self.index.text_shards())
        top = shards.top(vector, min(k, self.index.count), mask)
        rows = top.rows[0][top.rows[0] >= 0]
        items = self.index.take(rows, ["id", "text"]).to_pylist()
        scores = top.scores[0][: len(rows)].tolist()
        return [
            TextHit(row, score, item["text"], item["id"])
            for row, score, item in zip(rows.tolist(), scores, items, strict=True)
        ]

    def _checked(self, row: int) -> int:
        if not 0 <= row < self.index.count:
            raise QueryError(f"There is no row {row}. The index has 0 to {self.index.count - 1}.")
        return row

    def _percentiles(
        self, queries: np.ndarray, scores: np.ndarray, mask: np.ndarray | None
    ) -> np.ndarray:
        """(q, k) float64, in percent; see `Hit.percentile`."""
        if mask is None:  # the k best of all: no other row scores higher
            higher = np.array([np.searchsorted(-row, -row, side="left") for row in scores])
        else:
            higher = self.exact.count_above(queries, scores)
        return 100.0 * (1.0 - higher / self.index.count)

    def _hits(
        self, rows: np.ndarray, scores: np.ndarray, shares: np.ndarray, query: np.ndarray | None
    ) -> list[Hit]:
        names = [
            name for name in self.index.columns if name not in _NOT_PROPERTIES or name == "text"
        ]
        items = self.index.take(rows, ["id", "formula", *names]).to_pylist()
        texts = [item.pop("text", None) for item in items]
        sentences = [None] * len(items) if query is None else self._best(rows, texts, query)
        return [
            Hit(
                int(row),
                item.pop("id"),
                item.pop("formula"),
                float(score),
                float(share),
                sentence,
                known(item),
            )
            for row, score, share, sentence, item in zip(
                rows, scores, shares, sentences, items, strict=True
            )
        ]

    def _best(
        self, rows: np.ndarray, texts: Sequence[str | None], query: np.ndarray
    ) -> list[str | None]:
        """The sentence of each text that is most similar to the query."""
        new = {
            int(row): split_sentences(text)
            for row, text in zip(rows, texts, strict=True)
            if text and int(row) not in self._sentences
        }
        pieces = [piece for sentences in new.values() for piece in sentences]
        vectors = iter(self.model.embed_texts(pieces) if pieces else ())
        for row, sentences in new.items():
            if sentences:
                self._sentences[row] = sentences, np.stack([next(vectors) for _ in sentences])
        best: list[str | None] = []
        for row in map(int, rows):
            if row in self._sentences:
                self._sentences.move_to_end(row)
                sentences, embedded = self._sentences[row]
                best.append(sentences[int(np.argmax(embedded @ query))])
            else:
                best.append(None)
        while len(self._sentences) > _SENTENCE_TEXTS:
            self._sentences.popitem(last=False)
        return best


def known(item: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an item that are known: neither null nor NaN."""
    return {name: value for name, value in item.items() if value is not None and value == value}


def query_of(
    text: str | Sequence[str] | Query | None, crystal: Any, not_text: str | Sequence[str]
) -> Query:
    """The query of the arguments of `Index.search`.

    Raises:
        QueryError: there is nothing to search for, or a `Query` is combined with other parts.
    """
    if isinstance(text, Query):
        if crystal is not None or not_text:
            raise QueryError("A Query has all parts of a query. Give it without others.")
        return text
    parts = [] if crystal is None else list(crystal) if isinstance(crystal, list) else [crystal]
    is_row = [isinstance(part, int | np.integer) for part in parts]
    return Query(
        texts=_listed(text),
        crystals=tuple(part for part, row in zip(parts, is_row, strict=True) if not row),
        rows=tuple(int(part) for part, row in zip(parts, is_row, strict=True) if row),
        not_texts=_listed(not_text),
    )


def model_of(index: Index, name: str | None = None) -> Any:
    """Loads the model of an index.

    Args:
        index: the index.
        name: the name of the model, as for `clac_jax.load`; None: the one that the index records.

    Raises:
        UserError: the model cannot be loaded.
        IndexMismatchError: it is another model than that of the index.
    """
    from clac_jax.inference.model import Model
    from clac_jax.inference.source import open_source

    recorded = str(index.info["model"]["name"])
    try:
        model = Model(open_source(name or recorded))
    except UserError as error:
        if name is not None:
            raise
        raise QueryError(
            f"{index.path} was made by the model {recorded}, which cannot be loaded from here: "
            f"{error} Name it: --model (in Python: Searcher(index, clac_jax.load(NAME)))."
        ) from error
    index.require_model(model)
    return model


def _listed(texts: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if texts is None else (texts,) if isinstance(texts, str) else tuple(texts)


def _stacked(vectors: Sequence[np.ndarray], none: np.ndarray) -> np.ndarray:
    return np.stack(vectors) if vectors else none
