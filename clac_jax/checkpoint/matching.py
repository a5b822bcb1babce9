"""Matching of the arrays of checkpoints to a model's, by names and shapes only."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from clac_jax.checkpoint.growing import Grow, grow_offers
from clac_jax.checkpoint.renaming import (
    AVERAGE,
    STRICT_PARTS,
    Change,
    Offer,
    Offers,
    Rule,
    Saved,
    Shape,
    Shapes,
    as_rules,
    make_offers,
    parameter_names,
    part_of,
    split_name,
)
from clac_jax.config.adapters import is_adapter
from clac_jax.config.schema import RESTORE_PARTS

Outcome = Literal[
    "restored", "renamed", "transformed", "resized", "initialized", "dropped", "unused"
]

PARTS = RESTORE_PARTS
OUTCOMES: tuple[Outcome, ...] = (
    "restored", "renamed", "transformed", "resized", "initialized", "dropped", "unused",
)  # fmt: skip
KEPT: tuple[Outcome, ...] = ("restored", "renamed", "transformed", "resized")
"""The outcomes in which an array of the model has values of a checkpoint."""

_COMPLETE = ("restored", "renamed", "transformed")


@dataclass(frozen=True)
class RestoreOptions:
    """The choice of what to restore from a checkpoint, and how (`config.restore`).

    Attributes:
        parts: the members of `PARTS` to restore; "progress" is step, epoch and position in
            the data.
        strict: whether a parameter or statistic that only one side has is an error.
        rules: ordered (regex, replacement or None) or (regex, replacement, transform). The first
            regex that matches an entire saved name ("text_encoder/layer_0/query/kernel") renames
            the array, or leaves it out if None. Parameters, their optimizer moments and batch
            statistics are renamed and transformed together.
        on_shape_mismatch: "error"; "skip" initializes the array; "overlap" copies the common slice
            from the first index of each axis and initializes the rest; "grow" makes a larger model
            that computes the same.
        only: regex of the saved names to restore; "": all.
    """

    parts: tuple[str, ...] = PARTS
    strict: bool = True
    rules: tuple[Rule, ...] = ()
    on_shape_mismatch: Literal["error", "skip", "overlap", "grow"] = "error"
    only: str = ""

    @classmethod
    def from_config(cls, group: Any) -> RestoreOptions:
        """The options in the group `restore` of a config."""
        return cls(
            parts=tuple(group.parts),
            strict=group.strict,
            rules=as_rules(group.rules),
            on_shape_mismatch=group.on_shape_mismatch,
        )


@dataclass(frozen=True)
class Match:
    """The outcome for one array.

    Attributes:
        outcome: restored (same name), renamed, transformed, resized (renamed or not), initialized
            (as in a fresh run), dropped (not in the model) or unused (not requested).
        path: slash path in the model; None if dropped or unused.
        source: slash path in the checkpoint, the first one of several; None if the array is not in
            it.
        shape: shape in the model; None if dropped or unused.
        saved_shape: shape in the checkpoint; None if the array is not in it.
        reason: short explanation; "" if it is obvious.
        number: number of the source, from 1; 0 if the array is in none.
        change: the transform of the rule, if it has one.
    """

    outcome: Outcome
    path: str | None
    source: str | None
    shape: Shape | None
    saved_shape: Shape | None
    reason: str = ""
    number: int = 0
    change: Change | None = None

    @property
    def name(self) -> str:
        """The path in the model, or in the checkpoint for an array that the model lacks."""
        return self.path or self.source or ""

    @property
    def part(self) -> str:
        """The member of `PARTS` to which the array belongs."""
        return part_of(self.name)

    @property
    def sources(self) -> tuple[str, ...]:
        """The slash paths in the checkpoint of all arrays from which this one is built."""
        if self.change is not None:
            return self.change.inputs
        return (self.source,) if self.source else ()

    @property
    def given_shape(self) -> Shape | None:
        """The shape after the transform of the rule, if there is one."""
        return self.saved_shape if self.change is None else self.change.shape


@dataclass(frozen=True)
class Source:
    """The arrays of one source, and what is wanted of it.

    Attributes:
        saved: its arrays.
        options: what to restore of it.
        grow: what `on_shape_mismatch="grow"` does, see `growing.growth_of`.
    """

    saved: Saved
    options: RestoreOptions = field(default_factory=RestoreOptions)
    grow: Grow | None = None


def match(
    saved: Shapes,
    wanted: Shapes,
    options: RestoreOptions,
    contents: Mapping[str, str] | None = None,
) -> list[Match]:
    """One `Match` per array of the model and per saved array that has no place in it.

    Args:
        saved: slash path -> shape in the checkpoint; the first name is the part, as in
            "params/logit_scale" and "opt_state/inner_state/adam/mu/logit_scale".
        wanted: slash path -> shape in the model.
        options: the rules and the handling of mismatches.
        contents: slash path -> text that is equal for equal saved arrays, where known.

    Raises:
        RestoreRuleError: a rule is not a regex, matches nothing, or maps two arrays to one name.
    """
    return match_sources([Source(Saved(saved, contents or {}), options)], wanted)


def match_sources(sources: Sequence[Source], wanted: Shapes) -> list[Match]:
    """One `Match` per array of the model, and per array of a source that has no place in it.

    The first source that has an array gives it. What depends on a parameter (its moments and its
    average) comes from the source that gives the parameter.

    Args:
        sources: the sources, in their order.
        wanted: slash path -> shape in the model.

    Raises:
        RestoreRuleError: see `match`.
    """
    offers = [make_offers(s.saved, wanted, s.options.rules, s.options.only) for s in sources]
    for source, offer in zip(sources, offers, strict=True):
        if source.grow is not None and source.options.on_shape_mismatch == "grow":
            grow_offers(offer, source.saved, wanted, source.grow)
    choice = _Choice(sources, offers, wanted)
    matches = [choice.match(path) for path in wanted]
    matches = _averages_from_parameters(_counts_with_moments(matches, sources))
    taken = {(m.number, source) for m in matches for source in m.sources}
    for number, (source, offer) in enumerate(zip(sources, offers, strict=True), start=1):
        for path, shape in source.saved.shapes.items():
            if (number, path) not in taken:
                outcome, reason = choice.why_left(number, path, offer)
                matches.append(Match(outcome, None, path, None, shape, reason, number))
    return matches


def problems(matches: Iterable[Match], options: RestoreOptions) -> list[Match]:
    """The matches that the options treat as errors; of several sources, `strict` is one choice."""
    found = []
    for candidate in matches:
        if candidate.part not in STRICT_PARTS or candidate.part not in options.parts:
            continue
        if candidate.outcome == "unused":
            continue
        one_sided = candidate.source is None or candidate.path is None
        resolved_by_rule = candidate.reason.startswith("left out")
        is_grown = candidate.source is None and candidate.number > 0
        is_new_adapter = candidate.source is None and is_adapter(candidate.name)
        is_accepted = resolved_by_rule or is_grown or is_new_adapter
        if one_sided and options.strict and not is_accepted:
            found.append(candidate)
        shapes_differ = not one_sided and candidate.shape != candidate.given_shape
        if shapes_differ and options.on_shape_mismatch == "error":
            found.append(candidate)
    return found


class _Choice:
    """The source of each array of the model."""

    def __init__(self, sources: Sequence[Source], offers: Sequence[Offers], wanted: Shapes):
        self._sources, self._offers, self._wanted = sources, offers, wanted
        self._parameters = parameter_names(p for p in wanted if part_of(p) == "params")
        self._givers = {path: self._giver(path) for path in wanted if part_of(path) == "params"}

    def match(self, path: str) -> Match:
        """The match of an array of the model."""
        shape, part = self._wanted[path], part_of(path)
        if not any(part in source.options.parts for source in self._sources):
            reason = "its part is not in restore.parts"
            return Match("initialized", path, None, shape, None, reason)
        number = self._giver(path)
        added = next(
            ((k, o.added[path]) for k, o in enumerate(self._offers, start=1) if path in o.added),
            None,
        )
        if number == 0 and added is not None:
            by, (reason, change) = added
            return Match("initialized", path, None, shape, None, reason, by, change)
        if number == 0:
            reasons = [offer.reasons[path] for offer in self._offers if path in offer.reasons]
            return Match("initialized", path, None, shape, None, (reasons or [""])[0])
        source = self._sources[number - 1]
        found = _pair(path, self._offers[number - 1].by_target[path], shape, source, number)
        reason = self._offers[number - 1].reasons.get(path, "")
        is_grown = found.change is not None and found.outcome == "transformed" and reason
        return dataclasses.replace(found, reason=reason) if is_grown else found

    def why_left(self, number: int, path: str, offers: Offers) -> tuple[Outcome, str]:
        """The outcome of an array of a source that gives nothing to the model, and the reason."""
        if part_of(path) not in self._sources[number - 1].options.parts:
            return "unused", "its part is not in restore.parts"
        if path in offers.outside:
            return "unused", "not matched by `only`"
        for target in offers.targets.get(path, ()):
            giver = self._owner(target) or self._giver(target)
            if giver not in (0, number):
                which = "it" if giver == self._giver(target) else "its parameter"
                return "unused", f"source {giver} gives {which}"
        return "dropped", offers.reasons.get(path, "")

    def _owner(self, path: str) -> int:
        """The source that gives the parameter of a moment or an average; 0 if that is open."""
        _, name = split_name(path, self._parameters)
        if len(self._sources) == 1 or part_of(path) != "opt_state" or not name:
            return 0
        return self._givers.get(f"params/{name}", 0)

    def _giver(self, path: str) -> int:
        """The number of the source that gives an array; 0 if none does."""
        part, owner = part_of(path), self._owner(path) if part_of(path) == "opt_state" else 0
        for number, (source, offer) in enumerate(
            zip(self._sources, self._offers, strict=True), start=1
        ):
            if owner in (0, number) and part in source.options.parts and path in offer.by_target:
                return number
        return 0


def _pair(path: str, offer: Offer, shape: Shape, source: Source, number: int) -> Match:
    saved = source.saved.shapes[offer.source]
    given = saved if offer.change is None else offer.change.shape

    def matched(outcome: Outcome, reason: str = "") -> Match:
        return Match(outcome, path, offer.source, shape, saved, reason, number, offer.change)

    if shape == given:
        if offer.change is not None:
            return matched("transformed" if offer.change.transform else "renamed")
        return matched("restored" if path == offer.source else "renamed")
    overlaps = len(shape) == len(given) and shape != ()
    if source.options.on_shape_mismatch == "overlap" and overlaps:
        return matched("resized", "the common slice is copied")
    return matched("initialized", "its shape differs")


def _counts_with_moments(matches: Sequence[Match], sources: Sequence[Source]) -> list[Match]:
    """The matches, with the moments and step count of each parameter restored both or not at all.

    The count is the number of updates in the moments (`optim.scale_by_adam`), so neither is usable
    without the other, and a partly new moment has no single count. If a checkpoint has a single
    count for all parameters, as in format 1, it is the count of each parameter whose moments are
    restored.
    """
    parameters = parameter_names(m.path for m in matches if m.part == "params")
    families: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for number, found in enumerate(matches):
        prefix, name = split_name(found.name, parameters)
        if found.part == "opt_state" and name:  # ".../adam/mu/" -> ".../adam"
            families[prefix.rstrip("/").rpartition("/")[0], name].append(number)
    result = list(matches)
    for (optimizer, name), members in families.items():
        by_path = {matches[number].path: number for number in members}
        counter = by_path.get(f"{optimizer}/count/{name}")
        if counter is None:  # moments without bias correction
            continue
        count, shared = matches[counter], f"{optimizer}/count"
        giver = max(matches[n].number for n in members)
        saved = sources[giver - 1].saved.shapes if giver else {}
        if count.source is None and saved.get(shared) == () and not count.reason:
            count = Match("restored", count.path, shared, (), (), "", giver)
        family = [count if n == counter else matches[n] for n in members]
        if all(m.outcome in _COMPLETE for m in family):
            result[counter] = count
            continue
        for n in members:
            reason = matches[n].reason
            if matches[n].outcome != "initialized":
                reason = "the moments of its parameter start over"
            result[n] = dataclasses.replace(matches[n], outcome="initialized", reason=reason)
    return result


def _averages_from_parameters(matches: Sequence[Match]) -> list[Match]:
    """The matches, in which an average without values in the checkpoint starts at its parameter."""
    parameters = {found.path: found for found in matches if found.part == "params"}

    def started(found: Match) -> Match:
        if found.path is None or not found.path.startswith(f"{AVERAGE}/"):
            return found
        parameter = parameters.get(f"params/{found.path.removeprefix(f'{AVERAGE}/')}")
        if found.outcome in _COMPLETE or parameter is None or parameter.source is None:
            return found
        reason = "the average begins at its parameter"
        outcome: Outcome = "renamed" if parameter.outcome == "restored" else parameter.outcome
        return dataclasses.replace(parameter, outcome=outcome, path=found.path, reason=reason)

    return [started(found) for found in matches]
