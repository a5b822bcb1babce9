"""Short rules that rename and transform given arrays as given."""

from __future__ import annotations

import collections
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from clac_jax.checkpoint.renaming import Rule, natural

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Pair:
    """Saved arrays and what becomes of them; names are without the part of the state.

    Attributes:
        sources: names in the checkpoint, in their order.
        targets: names in the model.
        transform: its text; "" if only the name changes.
        why: how the two were found to belong together, in a few words.
    """

    sources: tuple[str, ...]
    targets: tuple[str, ...]
    transform: str = ""
    why: str = ""


def rules_of_pairs(pairs: Sequence[Pair], names: Collection[str]) -> list[Rule]:
    """Rules that do for the pairs what they say, and nothing to any other array.

    Arrays whose names differ only in numbers share a rule, if that is true of their new names.

    Args:
        pairs: no saved name is in two of them.
        names: the names of all arrays of the checkpoint, without the part of the state.
    """
    by_pattern: dict[Rule, list[Pair]] = collections.defaultdict(list)
    for pair in pairs:
        by_pattern[_general(pair)].append(pair)
    rules: list[Rule] = []
    for rule, some in by_pattern.items():
        wanted = {source: pair.targets for pair in some for source in pair.sources}
        if _matched(rule, names) == wanted.keys() and all(
            _replaced(rule, source, targets) for source, targets in wanted.items()
        ):
            rules.append(rule)
        else:
            rules += [rule for pair in some for rule in _literal(pair)]
    return rules


def _general(pair: Pair) -> Rule:
    """The rule with numbers in place of the numbers of the pair."""
    first = pair.sources[0]
    numbers = _NUMBER.findall(first)
    joined = len(pair.sources) > 1
    # The numbers that count the arrays to be joined differ between them.
    varying = {
        k
        for k in range(len(numbers))
        if joined and len({_NUMBER.findall(source)[k : k + 1][0] for source in pair.sources}) > 1
    }
    pattern = _NUMBER.sub(r"(\\d+)", re.escape(first))
    new = _without_index(pair.targets) if len(pair.targets) > 1 else pair.targets[0]
    used: set[int] = set(varying)

    def reference(found: re.Match[str]) -> str:
        for k, number in enumerate(numbers):
            if number == found[0] and k not in used:
                used.add(k)
                return rf"\g<{k + 1}>"
        return found[0]

    return _rule(pattern, _NUMBER.sub(reference, new.replace("\\", r"\\")), pair.transform)


def _without_index(targets: tuple[str, ...]) -> str:
    """The names with {} for the number in which they differ: "layers/{}/kernel"."""
    for found in _NUMBER.finditer(targets[0]):
        if found[0] == "0":
            new = f"{targets[0][: found.start()]}{{}}{targets[0][found.end() :]}"
            if all(new.replace("{}", str(k)) == target for k, target in enumerate(targets)):
                return new
    raise ValueError(f"{targets} do not differ in one number")


def _literal(pair: Pair) -> list[Rule]:
    new = _without_index(pair.targets) if len(pair.targets) > 1 else pair.targets[0]
    new = new.replace("\\", r"\\")
    pattern = "|".join(map(re.escape, sorted(pair.sources, key=natural)))
    return [_rule(pattern, new, pair.transform)]


def _rule(pattern: str, new: str, transform: str) -> Rule:
    return (pattern, new, transform) if transform else (pattern, new)


def _matched(rule: Rule, names: Collection[str]) -> set[str]:
    regex = re.compile(rule[0])
    return {name for name in names if regex.fullmatch(name)}


def _replaced(rule: Rule, source: str, targets: tuple[str, ...]) -> bool:
    """Whether the rule gives the saved array the names that it should have."""
    found = re.fullmatch(rule[0], source)
    assert found is not None and isinstance(rule[1], str)
    new = found.expand(rule[1])
    return all(new.replace("{}", str(k)) == target for k, target in enumerate(targets))
