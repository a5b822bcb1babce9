"""Searching an index: queries, conditions and hits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from clac_jax.errors import UserError
from clac_jax.index import filters
from clac_jax.index.details import Details
from clac_jax.index.exact import ExactSearch, Top
from clac_jax.index.query import Query, QueryError, combined
from clac_jax.index.store import Index
from clac_jax.text.formula_names import spelled_out

MAX_K = 10_000


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
        sentences: number of the first hits for which the sentence of their text that matches best
            is found; all sentences of these texts are embedded.

    Raises:
        QueryError: k is out of range.
    """

    k: int = 10
    where: str | None = None
    min_score: float | None = None
    sentences: int = 50

    def __post_init__(self) -> None:
        if not 1 <= self.k <= MAX_K:
            raise QueryError(f"k is {self.k}. Ask for 1 to {MAX_K:,} hits.")


@dataclasses.dataclass(frozen=True)
class Hit:
    """A crystal that was found.

    Attributes:
        row: its row in the index.
        id: its id.
        formula: its reduced formula, more electropositive elements first.
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
    """An index with its model, ready for any number of searches.

    Attributes:
        max_new_texts: largest number of texts whose sentences are embedded per call; further hits
            have no sentence unless it is known from an earlier call. None: no limit.
    """

    max_new_texts: int | None = None

    def __init__(self, index: Index, model: QueryModel, use_ann: bool = False):
        """Opens the vectors.

        Args:
            index: the index.
            model: its model.
            use_ann: whether searches without a condition use the approximate index.

        Raises:
            IndexMismatchError: the index was made by another model.
            DamagedIndexError: a file of vectors cannot be read.
            AnnError: there is no approximate index, or FAISS is not installed.
        """
        index.require_model(model)
        self._ann = _ann_of(index) if use_ann else None
        self.index = index
        self.model = model
        self.exact = ExactSearch(index.vector_shards())
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._details = Details(index, model.embed_texts)

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
        return self.search_vectors(queries, [options for _, options in requests])

    def search_vectors(self, queries: np.ndarray, requests: Sequence[Options]) -> list[list[Hit]]:
        """Searches for vectors of queries, each with its own options.

        Args:
            queries: (q, dim) float32 unit vectors, as from `vectors`.
            requests: the options of each.

        Raises:
            FilterError: a condition cannot be used.
        """
        groups: dict[str | None, list[int]] = {}
        for number, options in enumerate(requests):
            groups.setdefault(options.where, []).append(number)
        found: list[list[tuple[int, float, float]]] = [[] for _ in requests]
        for where, numbers in groups.items():
            mask = None if where is None else self.mask(where)
            k = min(max(requests[number].k for number in numbers), self.index.count)
            top = self._top(queries[numbers], k, mask)
            percentiles = self._percentiles(queries[numbers], top.scores, mask)
            for place, number in enumerate(numbers):
                options = requests[number]
                is_hit = (top.rows[place] >= 0) & (np.arange(k) < options.k)
                if options.min_score is not None:
                    is_hit &= top.scores[place] >= options.min_score
                columns = (top.rows[place], top.scores[place], percentiles[place])
                found[number] = [
                    (int(row), float(score), float(share))
                    for row, score, share in zip(*(c[is_hit] for c in columns), strict=True)
                ]
        limits = [options.sentences for options in requests]
        self._details.load(
            [row for hits in found for row, _, _ in hits],
            [row for hits, limit in zip(found, limits, strict=True) for row, _, _ in hits[:limit]],
            self.max_new_texts,
        )
        return [
            [
                self._hit(*values, queries[number] if place < limits[number] else None)
                for place, values in enumerate(hits)
            ]
            for number, hits in enumerate(found)
        ]

    def vectors(self, queries: Sequence[Query]) -> np.ndarray:
        """(n, dim) float32 unit vectors of queries; all texts are embedded together.

        Formulas in short texts are spelled out first: see `formula_names`.

        Raises:
            QueryError, InputError: a query cannot be searched for.
        """
        texts = [
            spelled_out(text) for query in queries for text in (*query.texts, *query.not_texts)
        ]
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
                f"{self.index.path} has no vectors of texts. Make an index with them "
                "(`clac-jax embed` without --no_texts), or give the texts to choose from."
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

    def _top(self, queries: np.ndarray, k: int, mask: np.ndarray | None) -> Top:
        if self._ann is None or mask is not None:
            return self.exact.top(queries, k, mask)
        # Scored again: the approximate index may have stored fewer bits.
        return self.exact.ranked(queries, k, self._ann.search(queries, k)[1])

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

    def _hit(self, row: int, score: float, share: float, query: np.ndarray | None) -> Hit:
        name, formula, properties = self._details.of(row)
        sentence = None if query is None else self._details.sentence(row, query)
        return Hit(row, name, formula, score, share, sentence, properties)


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
    from clac_jax.inference.named import open_source

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


def _ann_of(index: Index) -> Any:
    from clac_jax.index.ann import AnnError, open_ann

    ann = open_ann(index)
    if ann is None:
        raise AnnError(
            f"{index.path} has no approximate index. Build one with `clac-jax index build --ann "
            f"{index.path}`, or search without --ann."
        )
    return ann


def _listed(texts: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if texts is None else (texts,) if isinstance(texts, str) else tuple(texts)


def _stacked(vectors: Sequence[np.ndarray], none: np.ndarray) -> np.ndarray:
    return np.stack(vectors) if vectors else none
