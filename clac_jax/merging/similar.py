"""Pairs of saved arrays and a model's, found by their names and shapes."""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Mapping

from clac_jax.checkpoint.renaming import Shape, Shapes, natural
from clac_jax.merging.rules_of_pairs import Pair

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NUMBER = re.compile(r"\d+")
_ENOUGH = 0.45  # similarity of names from which a pair is proposed
# Words that most names have, so that they say nothing.
_COMMON = {"kernel", "bias", "mean", "var", "layer", "encoder", "model", "dense", "token"}
# Names that programs give to the same thing.
_SAME = {
    "weight": "kernel", "scale": "kernel", "embedding": "kernel", "embeddings": "kernel",
    "gamma": "kernel", "w": "kernel", "beta": "bias", "b": "bias", "running_mean": "mean",
    "running_var": "var", "layernorm": "norm", "ln": "norm", "bn": "norm", "q": "query",
    "k": "key", "v": "value", "proj": "projection", "layers": "layer", "blocks": "layer",
    "block": "layer", "h": "layer", "encoder": "encoder", "linear": "dense", "fc": "dense",
    "word": "token", "params": "model", "embed": "kernel",
}  # fmt: skip


def similar_pairs(saved: Shapes, wanted: Shapes) -> list[Pair]:
    """Pairs of the most similar names among arrays of fitting shapes.

    Args:
        saved: name without its part -> shape, of saved arrays without a counterpart.
        wanted: the same of the model.
    """
    pairs = _stacked(saved, wanted)
    pairs += _unstacked(_without(saved, pairs), _without(wanted, pairs))
    return pairs + _single(_without(saved, pairs), _without(wanted, pairs))


def _without(shapes: Shapes, pairs: Iterable[Pair]) -> dict[str, Shape]:
    used = {name for pair in pairs for name in (*pair.sources, *pair.targets)}
    return {name: shape for name, shape in shapes.items() if name not in used}


def _single(saved: Shapes, wanted: Shapes) -> list[Pair]:
    by_shape: dict[tuple[int, ...], list[str]] = collections.defaultdict(list)
    for name, shape in saved.items():
        by_shape[tuple(sorted(shape))].append(name)
    words = {name: _words(name) for name in (*saved, *wanted)}
    wanted_shapes = collections.Counter(tuple(sorted(shape)) for shape in wanted.values())
    scored = []
    for name, shape in wanted.items():
        for source in by_shape[tuple(sorted(shape))]:
            transform = _transform(source, name, saved[source], shape)
            score = similarity(words[source], words[name])
            size = tuple(sorted(shape))
            is_only = len(by_shape[size]) == wanted_shapes[size] == 1
            is_sure = is_only or _says_something(words[source], words[name])
            if transform is not None and score >= _ENOUGH and is_sure:
                scored.append((-score, source, name, transform))
    pairs: list[Pair] = []
    used: set[str] = set()
    for _, source, name, transform in sorted(scored):
        if not {source, f"> {name}"} & used:
            used |= {source, f"> {name}"}
            pairs.append(Pair((source,), (name,), transform, "a similar name"))
    return sorted(pairs, key=lambda pair: natural(pair.targets[0]))


def _transform(source: str, name: str, shape: Shape, wanted: Shape) -> str | None:
    """The transform between two arrays that may be the same; None if there is none."""
    ends = source.rsplit("/", 1)[-1], name.rsplit("/", 1)[-1]
    if len(shape) == 2 and shape[::-1] == wanted and ends == ("weight", "kernel"):
        return "transpose(1, 0)"  # PyTorch's linear maps are (outputs, inputs)
    if shape == wanted:
        return ""
    return "transpose(1, 0)" if len(shape) == 2 and shape[::-1] == wanted else None


def _stacked(saved: Shapes, wanted: Shapes) -> list[Pair]:
    """Arrays of numbered layers that are one array in the model."""
    return [
        Pair(tuple(several), (one,), "stack(0)", "layers of one array")
        for one, several in _rows(wanted, saved)
    ]


def _unstacked(saved: Shapes, wanted: Shapes) -> list[Pair]:
    """The reverse."""
    return [
        Pair((one,), tuple(several), "unstack(0)", "layers of one array")
        for one, several in _rows(saved, wanted)
    ]


def _rows(joined: Shapes, parts: Shapes) -> list[tuple[str, list[str]]]:
    """(array, arrays numbered from 0 that are its rows), the most similar of each."""
    series: dict[tuple[str, str], dict[int, str]] = collections.defaultdict(dict)
    for name in parts:
        for found in _NUMBER.finditer(name):
            series[name[: found.start()], name[found.end() :]][int(found[0])] = name
    scored = []
    for (before, after), members in series.items():
        names = [members[k] for k in range(len(members)) if k in members]
        shapes = {parts[name] for name in names}
        if len(names) != len(members) or len(names) < 2 or len(shapes) != 1:
            continue
        shape = (len(names), *shapes.pop())
        words = _words(before + after)
        for name, other in joined.items():
            score = similarity(words, _words(name)) if other == shape else 0.0
            if score >= _ENOUGH:
                scored.append((-score, name, names))
    found_rows: list[tuple[str, list[str]]] = []
    used: set[str] = set()
    for _, name, names in sorted(scored):
        if not {f"> {name}", *names} & used:
            used |= {f"> {name}", *names}
            found_rows.append((name, names))
    return found_rows


def similarity(left: list[str], right: list[str]) -> float:
    """From 0 to 1: the words that two names have in common, those at the end counting more.

    Names with other numbers are less similar, so that layer 1 goes with layer 1.
    """
    if not left or not right:
        return 0.0
    weights = _weights(left), _weights(right)
    common = sum(
        min(weights[0][word], weights[1][word]) for word in weights[0] if word in weights[1]
    )
    total = sum(weights[0].values()) + sum(weights[1].values())
    numbers = [[word for word in words if word.isdecimal()] for words in (left, right)]
    return 2 * common / total * (1.0 if numbers[0] == numbers[1] else 0.7)


def _says_something(left: list[str], right: list[str]) -> bool:
    common = set(left) & set(right) - _COMMON
    return any(not word.isdecimal() for word in common)


def _weights(words: list[str]) -> Mapping[str, float]:
    weights: dict[str, float] = collections.defaultdict(float)
    for place, word in enumerate(reversed(words)):
        weights[word] += max(0.5, 2.0 - 0.5 * place)
    return weights


def _words(name: str) -> list[str]:
    for old in ("running_mean", "running_var"):
        name = name.replace(old, _SAME[old])
    return [_SAME.get(word.lower(), word.lower()) for word in _WORD.findall(name)]
