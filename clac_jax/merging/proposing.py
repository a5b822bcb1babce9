"""Rules for arrays that a plan leaves without a counterpart, and growth for those that differ."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import ml_collections

from clac_jax.checkpoint.matching import Match
from clac_jax.checkpoint.plan import Plan, make_plan
from clac_jax.checkpoint.proposals import suggest_rules
from clac_jax.checkpoint.renaming import STRICT_PARTS, RestoreRuleError, Rule, Shape
from clac_jax.checkpoint.sources import Arrays, with_growth
from clac_jax.merging.content import equal_pairs
from clac_jax.merging.known_names import known_pairs
from clac_jax.merging.rules_of_pairs import Pair, rules_of_pairs
from clac_jax.merging.similar import similar_pairs
from clac_jax.surgery.growth import FIRST, GrowthError, Refusal

ModelShapes = Mapping[str, jax.ShapeDtypeStruct]


@dataclass(frozen=True)
class Proposal:
    """Rules to add to those of a plan's sources, and whether the model can grow out of theirs.

    Attributes:
        rules: number of a source, from 1 -> the rules to add, each with why, in a few words.
        plan: the plan with these rules and, if `grows`, with growth.
        grows: whether on_shape_mismatch="grow" is proposed.
        refusals: why it is not, for a model of other sizes.
    """

    rules: Mapping[int, tuple[tuple[Rule, str], ...]]
    plan: Plan
    grows: bool = False
    refusals: tuple[Refusal, ...] = ()


@dataclass(frozen=True)
class Open:
    """The arrays of a source and of the model that have no counterpart; names without their part.

    Attributes:
        saved: part -> name -> shape, of the source.
        wanted: the same of the model.
        matches: their matches.
    """

    saved: Mapping[str, dict[str, Shape]]
    wanted: Mapping[str, dict[str, Shape]]
    matches: list[Match]

    def has(self, pair: Pair) -> bool:
        """Whether all arrays of a pair are open, in one part, and fit."""
        for part in STRICT_PARTS:
            saved, wanted = self.saved[part], self.wanted[part]
            there = all(name in saved for name in pair.sources)
            if there and all(name in wanted for name in pair.targets):
                if len(pair.sources) > 1 or len(pair.targets) > 1:
                    return True
                shape = saved[pair.sources[0]]
                return wanted[pair.targets[0]] == (shape[::-1] if pair.transform else shape)
        return False


def propose(
    plan: Plan,
    shapes: ModelShapes,
    config: ml_collections.ConfigDict,
    reference: Arrays | None = None,
) -> Proposal:
    """Proposes rules: by the names that importers know, by content, by module, by similar names.

    If the arrays then still differ in shape or in the number of layers, growth is proposed, as long
    as it makes all of them.

    Args:
        plan: a plan.
        shapes: slash path -> shape and dtype of every array of the state.
        config: the config of the new run.
        reference: a checkpoint with the names of the model, some of whose arrays are those of the
            sources; None to compare no content.

    Raises:
        UserError: arrays of another program are to be compared, and cannot be read.
    """
    found: dict[int, tuple[tuple[Rule, str], ...]] = {}
    for number, source in enumerate(plan.sources, start=1):
        for way in _ways(source.arrays, _names(plan, number), config, reference):
            new = tuple(way(open_arrays_of(plan, number)))
            better = _with_rules(plan, number, [rule for rule, _ in new], shapes) if new else None
            if better is not None:
                plan = better
                found[number] = (*found.get(number, ()), *new)
    proposal = Proposal(found, plan)
    if any(source.options.on_shape_mismatch != "error" for source in plan.sources):
        return proposal
    try:
        return _with_growth(proposal, shapes, config)
    except GrowthError as error:
        refusals = error.refusals
    try:  # what the model does not have can be left out, such as layers
        return _with_growth(_without_leftovers(proposal, shapes), shapes, config)
    except GrowthError:
        return dataclasses.replace(proposal, refusals=refusals)


def _with_growth(
    proposal: Proposal, shapes: ModelShapes, config: ml_collections.ConfigDict
) -> Proposal:
    """The proposal with on_shape_mismatch="grow", if that helps.

    Raises:
        GrowthError: the model cannot grow out of those of the sources.
    """
    growing = (
        dataclasses.replace(
            source, options=dataclasses.replace(source.options, on_shape_mismatch="grow")
        )
        for source in proposal.plan.sources
    )
    plan = make_plan(with_growth(growing, config), shapes)
    # Where a source has no layer of a kind at all, its other arrays are only a part of a model.
    if any(m.reason == FIRST for m in plan.matches):
        return proposal
    if len(plan.problems()) >= len(proposal.plan.problems()):
        return proposal
    return dataclasses.replace(proposal, plan=plan, grows=True)


def _without_leftovers(proposal: Proposal, shapes: ModelShapes) -> Proposal:
    """The proposal with rules that leave out what the model does not have."""
    plan, rules = proposal.plan, dict(proposal.rules)
    for number in range(1, len(plan.sources) + 1):
        if some := rules_for_leftovers(plan, number):
            plan = _more_rules(plan, number, some, shapes)
            rules[number] = (*rules.get(number, ()), *((r, "not in the model") for r in some))
    return Proposal(rules, plan)


_Way = Callable[[Open], list[tuple[Rule, str]]]


def _ways(
    arrays: Arrays, names: set[str], config: ml_collections.ConfigDict, reference: Arrays | None
) -> list[_Way]:
    """The ways to find rules for the open arrays of a source, the surest first."""

    def by_pairs(pairs: Callable[[Open], Sequence[Pair]]) -> _Way:
        def rules(there: Open) -> list[tuple[Rule, str]]:
            some = [pair for pair in pairs(there) if there.has(pair)]
            words = ", ".join(sorted({pair.why for pair in some}))
            return [(rule, words) for rule in rules_of_pairs(some, names)]

        return rules

    ways = [by_pairs(lambda _: known_pairs(arrays, config))]
    if reference is not None:
        ways.append(by_pairs(lambda there: equal_pairs(arrays, reference, there.saved)))
    return [*ways, _modules, by_pairs(_similar)]


def open_arrays_of(plan: Plan, number: int) -> Open:
    """The open arrays of a source, and those of the model that this source may give."""
    parts = plan.sources[number - 1].options.parts
    saved: dict[str, dict[str, Shape]] = {part: {} for part in STRICT_PARTS}
    wanted: dict[str, dict[str, Shape]] = {part: {} for part in STRICT_PARTS}
    matches = []
    for m in plan.matches:
        part, _, name = m.name.partition("/")
        if part not in STRICT_PARTS or part not in parts or m.reason:
            continue
        if m.outcome == "dropped" and m.number == number and m.saved_shape is not None:
            saved[part][name] = m.saved_shape
        elif m.outcome == "initialized" and m.source is None and m.shape is not None:
            wanted[part][name] = m.shape
        else:
            continue
        matches.append(m)
    return Open(saved, wanted, matches)


def rules_for_leftovers(plan: Plan, number: int) -> list[Rule]:
    """Rules that leave out what a source has and the model does not, by modules."""
    names = _names(plan, number)
    there = open_arrays_of(plan, number)
    left = {name for part in STRICT_PARTS for name in there.saved[part]}
    rules: dict[str, None] = {}
    for name in sorted(left):
        words = name.split("/")
        for depth in range(1, len(words) + 1):
            prefix = "/".join(words[:depth])
            inside = {each for each in names if each == prefix or each.startswith(f"{prefix}/")}
            if inside <= left:
                is_array = depth == len(words)
                rules[re.escape(prefix) + ("" if is_array else "/.*")] = None
                break
    return [(pattern, None) for pattern in rules]


def _names(plan: Plan, number: int) -> set[str]:
    leaves = plan.sources[number - 1].arrays.leaves
    return {path.partition("/")[2] for path in leaves if path.partition("/")[0] in STRICT_PARTS}


def _modules(there: Open) -> list[tuple[Rule, str]]:
    """Modules that have another name, with everything in them."""
    params = [m for m in there.matches if m.part == "params"]
    return [(rule, "a module with another name") for rule in suggest_rules(params)]


def _similar(there: Open) -> list[Pair]:
    pairs = []
    for part in STRICT_PARTS:
        pairs += similar_pairs(there.saved[part], there.wanted[part])
    return pairs


def _with_rules(plan: Plan, number: int, rules: Sequence[Rule], shapes: ModelShapes) -> Plan | None:
    """The plan with more rules for a source; None if they cannot be applied or do not help."""
    try:
        better = _more_rules(plan, number, rules, shapes)
    except (RestoreRuleError, GrowthError):
        return None
    counts = [collections.Counter(m.outcome for m in each.matches) for each in (plan, better)]
    return better if counts[1]["initialized"] < counts[0]["initialized"] else None


def _more_rules(plan: Plan, number: int, rules: Sequence[Rule], shapes: ModelShapes) -> Plan:
    sources = list(plan.sources)
    old = sources[number - 1]
    options = dataclasses.replace(old.options, rules=(*old.options.rules, *rules))
    sources[number - 1] = dataclasses.replace(old, options=options)
    return make_plan(sources, shapes)
