"""Matching of a checkpoint's arrays to a model's, by names and shapes only."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from clac_jax.config.adapters import is_adapter
from clac_jax.config.schema import RESTORE_PARTS
from clac_jax.errors import UserError

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Rules = Sequence[tuple[str, str | None]]
Outcome = Literal["restored", "renamed", "resized", "initialised", "dropped"]

PARTS = RESTORE_PARTS
OUTCOMES: tuple[Outcome, ...] = ("restored", "renamed", "resized", "initialised", "dropped")
# Parts in which a difference is an error under `strict`. Optimizer state depends on the parameters
# and the optimizer, so differences there are only reported.
STRICT_PARTS = ("params", "batch_stats")
AVERAGE = "ema"  # first name of the paths of averaged parameters


class RestoreRuleError(UserError):
    """A rule of `config.restore.rules` cannot be applied."""


@dataclass(frozen=True)
class RestoreOptions:
    """The choice of what to restore from a checkpoint, and how (`config.restore`).

    Attributes:
        parts: the members of `PARTS` to restore; "progress" is step, epoch and position in
            the data.
        strict: whether a parameter or statistic that only one side has is an error.
        rules: ordered (regex, replacement or None). The first regex that matches an entire saved
            name ("text_encoder/layer_0/query/kernel") renames the array, or leaves it out if None.
            Parameters, their optimizer moments and batch statistics are renamed together.
        on_shape_mismatch: "error"; "skip" initialises the array; "overlap" copies the common slice
            from the first index of each axis and initialises the rest.
    """

    parts: tuple[str, ...] = PARTS
    strict: bool = True
    rules: tuple[tuple[str, str | None], ...] = ()
    on_shape_mismatch: Literal["error", "skip", "overlap"] = "error"

    @classmethod
    def from_config(cls, group: Any) -> RestoreOptions:
        """The options in the group `restore` of a config."""
        return cls(
            parts=tuple(group.parts),
            strict=group.strict,
            rules=tuple((pattern, replacement) for pattern, replacement in group.rules),
            on_shape_mismatch=group.on_shape_mismatch,
        )


@dataclass(frozen=True)
class Match:
    """The outcome for one array.

    Attributes:
        outcome: restored (same name), renamed, resized (renamed or not), initialised (as in a fresh
            run) or dropped (not in the model).
        path: slash path in the model; None if dropped.
        source: slash path in the checkpoint; None if the array is not in it.
        shape: shape in the model; None if dropped.
        saved_shape: shape in the checkpoint; None if the array is not in it.
        reason: short explanation; "" if it is obvious.
    """

    outcome: Outcome
    path: str | None
    source: str | None
    shape: Shape | None
    saved_shape: Shape | None
    reason: str = ""

    @property
    def name(self) -> str:
        """The path in the model, or in the checkpoint for a dropped array."""
        return self.path or self.source or ""

    @property
    def part(self) -> str:
        """The member of `PARTS` to which the array belongs."""
        return part_of(self.name)


def part_of(path: str) -> str:
    """The part of the state, one of `PARTS`, to which a slash path belongs.

    An average of the parameters is a memory of the earlier steps, like the optimizer's moments.
    """
    head = path.split("/", 1)[0]
    if head == AVERAGE:
        return "opt_state"
    return "progress" if head in ("step", "learning_rate_scale") else head


def match(saved: Shapes, wanted: Shapes, options: RestoreOptions) -> list[Match]:
    """One `Match` per array of the model and per saved array that is dropped.

    Args:
        saved: slash path -> shape in the checkpoint; the first name is the part, as in
            "params/logit_scale" and "opt_state/inner_state/adam/mu/logit_scale".
        wanted: slash path -> shape in the model.
        options: the rules and the handling of mismatches.

    Raises:
        RestoreRuleError: a rule is not a regex, matches nothing, or maps two arrays to one name.
    """
    sources, left_out = _renamed(saved, wanted, options)
    matches: list[Match] = []
    for path, shape in wanted.items():
        source = sources.get(path)
        if part_of(path) not in options.parts:
            matches.append(
                Match("initialised", path, None, shape, None, "its part is not in restore.parts")
            )
        elif source is None:
            reason = "left out by a rule" if path in left_out else ""
            matches.append(Match("initialised", path, None, shape, None, reason))
        else:
            matches.append(_pair(path, source, shape, saved[source], options.on_shape_mismatch))
    matches = _averages_from_parameters(_counts_with_moments(matches, saved))
    taken = {found.source for found in matches}
    for source, shape in saved.items():
        if source not in taken and part_of(source) in options.parts:
            reason = "left out by a rule" if source in left_out else ""
            matches.append(Match("dropped", None, source, None, shape, reason))
    return matches


def problems(matches: Iterable[Match], options: RestoreOptions) -> list[Match]:
    """The matches that the options treat as errors."""
    found = []
    for candidate in matches:
        if candidate.part not in STRICT_PARTS or candidate.part not in options.parts:
            continue
        one_sided = candidate.source is None or candidate.path is None
        resolved_by_rule = candidate.reason.startswith("left out")
        is_new_adapter = candidate.source is None and is_adapter(candidate.name)
        if one_sided and options.strict and not (resolved_by_rule or is_new_adapter):
            found.append(candidate)
        shapes_differ = not one_sided and candidate.shape != candidate.saved_shape
        if shapes_differ and options.on_shape_mismatch == "error":
            found.append(candidate)
    return found


def suggest_rules(found: Sequence[Match]) -> list[tuple[str, str]]:
    """Renames that would pair arrays of the two sides, largest group first.

    A group is a module: every array under its old name must have a counterpart of the same shape
    under the new one.
    """
    saved = _parameters(m.source for m in found if m.path is None)
    wanted = _parameters(m.path for m in found if m.source is None)
    shapes = {
        m.name.split("/", 1)[1]: m.shape if m.saved_shape is None else m.saved_shape for m in found
    }
    saved = {path for path in saved if path not in wanted}
    prefixes: set[tuple[str, str]] = set()
    by_shape = collections.defaultdict(list)
    for path in wanted:
        by_shape[shapes[path], path.rsplit("/", 1)[-1]].append(path)
    for source in saved:
        for path in by_shape[shapes[source], source.rsplit("/", 1)[-1]]:
            prefixes.add(_without_common_end(source, path))
    covers = {}
    for old, new in prefixes:
        inside = {path for path in saved if path.startswith(old + "/")}
        images = {new + path[len(old) :]: path for path in inside}
        if all(image in wanted and shapes[image] == shapes[path] for image, path in images.items()):
            covers[old, new] = (inside, set(images))
    rules: list[tuple[str, str]] = []
    used: set[str] = set()
    for (old, new), (inside, targets) in sorted(
        covers.items(), key=lambda item: (-len(item[1][0]), item[0])
    ):
        if not (inside | targets) & used:
            used |= inside | targets
            rules.append((f"{re.escape(old)}/(.*)", rf"{new}/\1"))
    return rules


def _renamed(
    saved: Shapes, wanted: Shapes, options: RestoreOptions
) -> tuple[dict[str, str], set[str]]:
    """(name in the model -> saved name, saved names that a rule drops)."""
    compiled = []
    for pattern, replacement in options.rules:
        try:
            compiled.append((re.compile(pattern), replacement))
        except re.error as error:
            raise RestoreRuleError(
                f'Config key "restore.rules" has {pattern!r}, which is not a regular expression: '
                f"{error}. Fix it."
            ) from error
    parameters = _parameters(path for path in saved if part_of(path) == "params")
    used = [False] * len(compiled)
    sources: dict[str, str] = {}
    left_out: set[str] = set()
    for source in saved:
        prefix, name = _split(source, parameters)
        target: str | None = source
        for number, (rule, replacement) in enumerate(compiled):
            found = rule.fullmatch(name) if name else None
            if found:
                used[number] = True
                target = None if replacement is None else prefix + found.expand(replacement)
                break
        if target is None:
            left_out.add(source)
        elif target in sources:
            raise RestoreRuleError(
                f'Config key "restore.rules" gives two arrays of the checkpoint, '
                f"{sources[target]!r} and {source!r}, the one name {target!r}. Leave one of them "
                "out with a rule (regex, None) before."
            )
        else:
            sources[target] = source
    for (pattern, _), hit in zip(options.rules, used, strict=True):
        if not hit:
            raise RestoreRuleError(
                f'Config key "restore.rules" has {pattern!r}, which matches no array of the '
                "checkpoint. `clac-jax ckpt show` lists their names."
            )
    return {path: source for path, source in sources.items() if path in wanted}, left_out


def _split(path: str, parameters: set[str]) -> tuple[str, str]:
    """("opt_state/adam/mu/", "graph/kernel"): the prefix before the module's name, and the name.

    The name is "" for an array that belongs to no module, like the step.
    """
    part, _, rest = path.partition("/")
    if part in STRICT_PARTS:
        return part + "/", rest
    names = path.split("/")
    for start in range(1, len(names)):
        name = "/".join(names[start:])
        if name in parameters:
            return path[: -len(name)], name
    return path, ""


def _pair(path: str, source: str, shape: Shape, saved_shape: Shape, on_mismatch: str) -> Match:
    if shape == saved_shape:
        outcome: Outcome = "restored" if path == source else "renamed"
        return Match(outcome, path, source, shape, saved_shape)
    if on_mismatch == "overlap" and len(shape) == len(saved_shape) and shape:
        return Match("resized", path, source, shape, saved_shape, "the common slice is copied")
    return Match("initialised", path, source, shape, saved_shape, "its shape differs")


def _counts_with_moments(matches: Sequence[Match], saved: Shapes) -> list[Match]:
    """The matches, with the moments and step count of each parameter restored both or not at all.

    The count is the number of updates in the moments (`optim.scale_by_adam`), so neither is usable
    without the other, and a partly new moment has no single count. If a checkpoint has a single
    count for all parameters, as in format 1, it is the count of each parameter whose moments are
    restored.
    """
    parameters = _parameters(m.path for m in matches if m.part == "params")
    families: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for number, found in enumerate(matches):
        prefix, name = _split(found.name, parameters)
        if found.part == "opt_state" and name:  # ".../adam/mu/" -> ".../adam"
            families[prefix.rstrip("/").rpartition("/")[0], name].append(number)
    result = list(matches)
    for (optimizer, name), members in families.items():
        by_path = {matches[number].path: number for number in members}
        counter = by_path.get(f"{optimizer}/count/{name}")
        if counter is None:  # moments without bias correction
            continue
        count, shared = matches[counter], f"{optimizer}/count"
        if count.source is None and saved.get(shared) == () and not count.reason:
            count = Match("restored", count.path, shared, (), ())
        family = [count if n == counter else matches[n] for n in members]
        if all(m.outcome in ("restored", "renamed") for m in family):
            result[counter] = count
            continue
        for n in members:
            reason = matches[n].reason
            if matches[n].outcome != "initialised":
                reason = "the moments of its parameter start over"
            result[n] = dataclasses.replace(matches[n], outcome="initialised", reason=reason)
    return result


def _averages_from_parameters(matches: Sequence[Match]) -> list[Match]:
    """The matches, in which an average without values in the checkpoint starts at its parameter."""
    parameters = {found.path: found for found in matches if found.part == "params"}

    def started(found: Match) -> Match:
        if found.path is None or not found.path.startswith(f"{AVERAGE}/"):
            return found
        parameter = parameters.get(f"params/{found.path.removeprefix(f'{AVERAGE}/')}")
        has_own = found.outcome in ("restored", "renamed")
        if has_own or parameter is None or parameter.source is None:
            return found
        reason = "the average begins at its parameter"
        outcome: Outcome = "renamed" if parameter.outcome == "restored" else parameter.outcome
        return dataclasses.replace(parameter, outcome=outcome, path=found.path, reason=reason)

    return [started(found) for found in matches]


def _parameters(paths: Iterable[str | None]) -> set[str]:
    return {path.split("/", 1)[1] for path in paths if path}


def _without_common_end(left: str, right: str) -> tuple[str, str]:
    """Both paths without their longest common suffix; at least one name of each remains."""
    a, b = left.split("/"), right.split("/")
    while len(a) > 1 and len(b) > 1 and a[-1] == b[-1]:
        a.pop()
        b.pop()
    return "/".join(a), "/".join(b)
