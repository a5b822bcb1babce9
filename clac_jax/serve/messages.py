"""Bodies of requests, checked; everything that a stranger could send is refused with one line."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import CrystalError
from clac_jax.datasets.record import is_unicode
from clac_jax.errors import UserError, one_line
from clac_jax.index import filters
from clac_jax.index.query import NOT_WEIGHT, Query
from clac_jax.index.search import Options

MAX_BODY = 1 << 20
"""Bytes of a request."""

MAX_TEXT = 10_000
"""Characters of one text; the model reads far fewer."""

MAX_TEXTS = 32
MAX_CRYSTALS = 8
MAX_ATOMS = 500
MAX_K = 1000
MAX_WHERE = 2000
MAX_SCORES = 100_000
"""Rows of an index whose scores are sent."""

_SEARCH = ("text", "not", "not_weight", "crystal", "row", "k", "where", "min_score", "sentences",
           "scores")  # fmt: skip
_EMBED = ("text", "crystal")
_SENTENCES = 10  # hits of which the matching sentence is looked for


class RequestError(UserError):
    """A request cannot be answered.

    Attributes:
        status: the HTTP status code.
    """

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class SearchRequest:
    """A checked body of `POST /search`; `scores`: whether those of all rows are wanted."""

    query: Query
    options: Options
    scores: bool


@dataclass(frozen=True)
class EmbedRequest:
    """A checked body of `POST /embed`."""

    texts: tuple[str, ...]
    crystals: tuple[Crystal, ...]


def search_request(body: bytes, schema: pa.Schema, count: int) -> SearchRequest:
    """Reads the body of `POST /search`.

    Args:
        body: JSON with the keys of docs/search.md.
        schema: columns of the index, for the condition.
        count: rows of the index.

    Raises:
        RequestError, QueryError, FilterError: it cannot be searched for.
    """
    values = _object(body, _SEARCH)
    where = _of(values, "where", str, None)
    if where is not None:
        if len(where) > MAX_WHERE:
            raise RequestError(f"where has more than {MAX_WHERE:,} characters. Shorten it.")
        filters.parse(where, schema)
    k = _integer(values, "k", 10)
    if not 1 <= k <= MAX_K:
        raise RequestError(f"k is {one_line(k, 40)}. Ask for 1 to {MAX_K:,} hits.")
    scores = _of(values, "scores", bool, False)
    if scores and count > MAX_SCORES:
        raise RequestError(
            f"The index has {count:,} crystals, and scores of all are sent for up to "
            f"{MAX_SCORES:,}. Leave out scores."
        )
    row = _integer(values, "row", None)
    not_texts = _texts(values, "not")
    query = Query(
        texts=_texts(values, "text"),
        crystals=_crystals(values),
        rows=() if row is None else (row,),
        not_texts=not_texts,
        not_weights=(_number(values, "not_weight", NOT_WEIGHT),),
    )
    if row is not None and not 0 <= row < count:
        raise RequestError(f"There is no row {one_line(row, 40)}. The index has 0 to {count - 1}.")
    sentences = _SENTENCES if _of(values, "sentences", bool, True) else 0
    options = Options(k, where, _number(values, "min_score", None), sentences)
    return SearchRequest(query, options, scores)


def embed_request(body: bytes) -> EmbedRequest:
    """Reads the body of `POST /embed`.

    Raises:
        RequestError: it cannot be embedded.
    """
    values = _object(body, _EMBED)
    request = EmbedRequest(_texts(values, "text"), _crystals(values))
    if not (request.texts or request.crystals):
        raise RequestError("There is nothing to embed. Give text, crystal, or both.")
    return request


def _object(body: bytes, keys: tuple[str, ...]) -> Mapping[str, Any]:
    try:
        values = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The body is not JSON ({one_line(error, 80)}). Correct it.") from error
    if not isinstance(values, dict):
        raise RequestError('The body is not a JSON object. Send one such as {"text": "an oxide"}.')
    if unknown := sorted(set(values) - set(keys)):
        raise RequestError(
            f"There is no key {one_line(unknown[0], 40)!r}. The keys are {', '.join(keys)}."
        )
    return values


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number of JSON")


def _of(values: Mapping[str, Any], key: str, kind: type, default: Any) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise RequestError(f"{key} is {_shown(value)}. Give {_WORDS[kind]}.")
    return value


_WORDS = {str: "a string", bool: "true or false"}


def _integer(values: Mapping[str, Any], key: str, default: Any) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool):
        raise RequestError(f"{key} is {_shown(value)}. Give an integer.")
    return value


def _number(values: Mapping[str, Any], key: str, default: Any) -> Any:
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e6:
        raise RequestError(f"{key} is {_shown(value)}. Give a number.")
    if not math.isfinite(value):
        raise RequestError(f"{key} is {_shown(value)}. Give a number.")
    return float(value)


def _texts(values: Mapping[str, Any], key: str) -> tuple[str, ...]:
    texts = _listed(values, key, MAX_TEXTS)
    for text in texts:
        if len(text) > MAX_TEXT:
            raise RequestError(
                f"A text of {key} has {len(text):,} characters. Use at most {MAX_TEXT:,}.", 413
            )
        if not text.strip():
            raise RequestError(f"A text of {key} is empty. Write what to search for.")
        if not is_unicode(text):
            raise RequestError(f"A text of {key} is not valid Unicode. Correct it.")
    return texts


def _crystals(values: Mapping[str, Any]) -> tuple[Crystal, ...]:
    crystals = []
    for text in _listed(values, "crystal", MAX_CRYSTALS):
        try:
            crystal = Crystal.from_cif(text)
        except CrystalError as error:
            raise RequestError(f"The crystal cannot be used: {one_line(error, 300)}") from error
        if crystal.num_atoms > MAX_ATOMS:
            raise RequestError(
                f"The crystal has {crystal.num_atoms:,} atoms. Send at most {MAX_ATOMS}.", 413
            )
        crystals.append(crystal)
    return tuple(crystals)


def _listed(values: Mapping[str, Any], key: str, limit: int) -> tuple[str, ...]:
    """A string, or a list of strings."""
    value = values.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise RequestError(f"{key} is {_shown(value)}. Give a string, or a list of strings.")
    if len(value) > limit:
        raise RequestError(f"{key} has {len(value):,} items. Use at most {limit}.")
    return tuple(value)


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {one_line(repr(value)[:200], 40)}"
