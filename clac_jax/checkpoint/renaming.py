"""The rules of a restore: what each saved array is called in the model, and how it is changed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clac_jax.errors import UserError
from clac_jax.surgery.transforms import Transform, parse

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
Replacement = str | tuple[str, ...] | None
Rule = tuple[str, Replacement] | tuple[str, Replacement, str]

# Parts in which a difference is an error under `strict`. Optimizer state depends on the parameters
# and the optimizer, so differences there are only reported.
STRICT_PARTS = ("params", "batch_stats")
AVERAGE = "ema"  # first name of the paths of averaged parameters
MOMENTS = {"mu": 1, "nu": 2, "trace": 1}  # name in the optimizer's state -> order of the moment
STARTS_OVER = "the moments of its parameter start over"
_KEY = 'Config key "restore.rules"'


class RestoreRuleError(UserError):
    """A rule of `config.restore` cannot be applied."""


@dataclass(frozen=True)
class Saved:
    """The arrays of a source.

    Attributes:
        shapes: slash path -> shape; the first name is the part.
        contents: slash path -> text that is equal for equal arrays, where it is known.
    """

    shapes: Shapes
    contents: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Change:
    """The transform of saved arrays into arrays of a model.

    Attributes:
        transform: its text, see `transforms.parse`; "" if all inputs are equal, and are the result.
        inputs: slash paths of the saved arrays, in their order.
        results: the shape of each result.
        targets: the shape of each array of the model that a result is for.
        index: which result it is.
        before: the change whose result is transformed; None: the saved arrays are.
    """

    transform: str
    inputs: tuple[str, ...]
    results: tuple[Shape, ...]
    targets: tuple[Shape, ...]
    index: int = 0
    before: Change | None = None

    @property
    def text(self) -> str:
        """All transforms of the saved arrays, one after the other."""
        return self.transform if self.before is None else f"{self.before.text} | {self.transform}"

    @property
    def shape(self) -> Shape:
        """The shape of this result."""
        return self.results[self.index]


@dataclass(frozen=True)
class Offer:
    """The saved array that a source has for one of the model.

    Attributes:
        source: slash path of the saved array, the first one of several.
        change: how it is transformed; None if only its name changes.
    """

    source: str
    change: Change | None = None


@dataclass
class Offers:
    """The saved arrays that a source has for those of a model.

    Attributes:
        by_target: slash path in the model -> what there is for it.
        targets: saved path -> the paths that its rule gives it, in the model or not.
        reasons: saved or model path -> why a rule leaves it without a counterpart.
        outside: saved paths that are not wanted.
        added: path of a new array of a model that grows -> the reason, and what becomes of its
            initial value.
    """

    by_target: dict[str, Offer] = field(default_factory=dict)
    targets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    outside: set[str] = field(default_factory=set)
    added: dict[str, tuple[str, Change | None]] = field(default_factory=dict)


def as_rules(values: Iterable[Sequence[Any]]) -> tuple[Rule, ...]:
    """Rules from a config, which may come from JSON, as tuples."""

    def ready(value: Any) -> Any:
        return tuple(value) if isinstance(value, list) else value

    return tuple((rule[0], *map(ready, rule[1:])) for rule in values)


def part_of(path: str) -> str:
    """The part of the state to which a slash path belongs, one of `matching.PARTS`.

    An average of the parameters is a memory of the earlier steps, like the optimizer's moments.
    """
    head = path.split("/", 1)[0]
    if head == AVERAGE:
        return "opt_state"
    return "progress" if head in ("step", "learning_rate_scale") else head


def parameter_names(paths: Iterable[str | None]) -> set[str]:
    """Slash paths of parameters without their part: "graph_encoder/kernel"."""
    return {path.split("/", 1)[1] for path in paths if path and "/" in path}


def split_name(path: str, parameters: set[str]) -> tuple[str, str]:
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


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer_2 before layer_10."""
    return [(int(t), "") if t.isdecimal() else (-1, t) for t in re.split(r"(\d+)", name)]


def make_offers(saved: Saved, wanted: Shapes, rules: Sequence[Rule], only: str = "") -> Offers:
    """The saved arrays that a source has for those of a model, by the rules.

    Args:
        saved: the arrays of the source.
        wanted: slash path -> shape in the model.
        rules: see `RestoreOptions.rules`.
        only: regex of the saved names that are wanted; "": all.

    Raises:
        RestoreRuleError: a rule is not a regex, matches nothing, maps two arrays to one name, or
            has a transform that cannot be applied.
        TransformError: it has an unknown transform.
    """
    compiled = [_Rule(rule) for rule in rules]
    wanted_name = _regex(only, 'Member "only" of config key "restore.sources"') if only else None
    parameters = parameter_names(path for path in saved.shapes if part_of(path) == "params")
    builder = _Builder(saved, wanted)
    taken: dict[str, _Rule] = {}
    for source in saved.shapes:
        prefix, name = split_name(source, parameters)
        if name and wanted_name is not None and not wanted_name.fullmatch(name):
            builder.offers.outside.add(source)
            continue
        for rule in compiled:
            if name and (found := rule.regex.fullmatch(name)):
                rule.hit = True
                taken[name] = rule
                builder.apply(rule, source, prefix, found)
                break
        else:
            builder.rename(source, source)
    builder.finish()
    for rule in compiled:
        if rule.hit:
            continue
        earlier = [r.pattern for name, r in taken.items() if rule.regex.fullmatch(name)]
        if earlier:
            raise RestoreRuleError(
                f"{_KEY} has {rule.pattern!r}, and all arrays that it matches are taken by an "
                f"earlier rule: {' or '.join(map(repr, dict.fromkeys(earlier)))}. Put it before "
                "that, or remove it."
            )
        raise RestoreRuleError(
            f"{_KEY} has {rule.pattern!r}, which matches no array of the checkpoint. "
            "`clac-jax ckpt show` lists their names."
        )
    return builder.offers


class _Rule:
    """A rule, and whether it has matched anything."""

    def __init__(self, rule: Rule):
        self.pattern, self.replacement = rule[0], rule[1]
        self.transform: Transform | None = parse(rule[2]) if len(rule) == 3 else None
        self.regex = _regex(self.pattern, _KEY)
        self.hit = False


class _Builder:
    """Collects the offers of a source."""

    def __init__(self, saved: Saved, wanted: Shapes):
        self.offers = Offers()
        self._saved, self._wanted = saved, wanted
        # (rule, prefix, new names) -> the saved arrays that are transformed together
        self._groups: dict[tuple[_Rule, str, tuple[str, ...]], list[str]] = {}

    def rename(self, source: str, target: str) -> None:
        """The saved array has this path in the model."""
        self.offers.targets[source] = (target,)
        self._offer(target, Offer(source))

    def apply(self, rule: _Rule, source: str, prefix: str, found: re.Match[str]) -> None:
        """Applies a rule to a saved array whose name it matches."""
        if rule.replacement is None:
            self._leave_out(source)
            return
        several = isinstance(rule.replacement, tuple)
        given = rule.replacement if isinstance(rule.replacement, tuple) else (rule.replacement,)
        try:
            names = tuple(found.expand(each) for each in given)
        except (re.error, IndexError) as error:
            raise RestoreRuleError(
                f"{_KEY} replaces {rule.pattern!r} by {rule.replacement!r}, which cannot be done: "
                f"{error}. Refer to groups of the regular expression, as in r'new/\\1'."
            ) from error
        if rule.transform is None:
            if several or "{}" in names[0]:
                raise RestoreRuleError(
                    f"{_KEY} gives {source!r} several names, {rule.replacement!r}, and no "
                    'transform that divides it. Add one, such as "unstack(0)".'
                )
            self.rename(source, prefix + names[0])
        else:
            self._groups.setdefault((rule, prefix, names), []).append(source)

    def finish(self) -> None:
        """Makes the offers of the arrays that are transformed."""
        for (rule, prefix, names), sources in self._groups.items():
            assert rule.transform is not None
            inputs = tuple(sorted(sources, key=natural))
            kind = prefix.rstrip("/").rpartition("/")[2]
            if part_of(prefix) != "opt_state" or prefix == f"{AVERAGE}/":
                transform: Transform | None = rule.transform
            elif kind == "count":
                self._count(prefix, self._names(rule, prefix, names, inputs)[0], inputs)
                continue
            else:
                transform = rule.transform.of_moment(MOMENTS.get(kind, 1))
            new, targets = self._names(rule, prefix, names, inputs)
            if transform is None:
                self._refuse(inputs, [prefix + name for name in new], STARTS_OVER)
                continue
            if len(inputs) > 1 and not transform.several_sources:
                raise _two_for_one(inputs[0], inputs[1], prefix + new[0])
            results = self._results(rule, transform, inputs, targets)
            if len(results) != len(new):
                raise RestoreRuleError(
                    f"{_KEY} makes {len(results)} arrays of {inputs[0]!r}, and has names for "
                    f"{len(new)}. Name all of them, or write {{}} for their numbers."
                )
            paths = tuple(prefix + name for name in new)
            for source in inputs:
                self.offers.targets[source] = paths
            shapes = tuple(t if t is not None else results[k] for k, t in enumerate(targets))
            for index, path in enumerate(paths):
                change = Change(str(transform), inputs, results, shapes, index)
                self._offer(path, Offer(inputs[0], change))

    def _names(
        self, rule: _Rule, prefix: str, names: tuple[str, ...], inputs: tuple[str, ...]
    ) -> tuple[tuple[str, ...], tuple[Shape | None, ...]]:
        """The new names of a group, with their numbers, and the shapes that they have."""
        assert rule.transform is not None
        if len(names) == 1 and "{}" in names[0]:
            there: list[Shape] = []
            while (s := self._shape(prefix, names[0].replace("{}", str(len(there))))) is not None:
                there.append(s)
            # The count of a parameter is a scalar: its parts are those of the parameter.
            like = self._like_parameter(prefix, inputs)
            results = self._results(rule, rule.transform, like, tuple(there))
            names = tuple(names[0].replace("{}", str(k)) for k in range(len(results)))
        return names, tuple(self._shape(prefix, name) for name in names)

    def _like_parameter(self, prefix: str, inputs: tuple[str, ...]) -> tuple[str, ...]:
        shapes = self._saved.shapes
        parameters = tuple(f"params/{path.removeprefix(prefix)}" for path in inputs)
        return parameters if all(path in shapes for path in parameters) else inputs

    def _shape(self, prefix: str, name: str) -> Shape | None:
        """The shape in the model; that of its parameter for a moment that is missing."""
        path = prefix + name
        return self._wanted[path] if path in self._wanted else self._wanted.get(f"params/{name}")

    def _results(
        self,
        rule: _Rule,
        transform: Transform,
        inputs: tuple[str, ...],
        targets: tuple[Shape | None, ...],
    ) -> tuple[Shape, ...]:
        shapes = tuple(self._saved.shapes[path] for path in inputs)
        try:
            return tuple(transform.shapes(shapes, targets))
        except ValueError as error:
            some = ", ".join(map(repr, inputs[:2])) + (", ..." if len(inputs) > 2 else "")
            raise RestoreRuleError(
                f"{_KEY} transforms {some} by {str(rule.transform)!r}, which cannot be done: "
                f"{str(error).rstrip('.')}. Change the rule that begins with {rule.pattern!r}."
            ) from error

    def _count(self, prefix: str, names: tuple[str, ...], inputs: tuple[str, ...]) -> None:
        """The number of updates of transformed moments: that of all inputs, if it is one number."""
        known = {self._saved.contents.get(path, path) for path in inputs}
        paths = tuple(prefix + name for name in names)
        if len(known) > 1:
            self._refuse(inputs, paths, "its parts have been updated different numbers of times")
            return
        for source in inputs:
            self.offers.targets[source] = paths
        for path in paths:
            change = Change("", inputs, ((),), ((),)) if len(inputs) > 1 else None
            self._offer(path, Offer(inputs[0], change))

    def _leave_out(self, source: str) -> None:
        self.offers.reasons[source] = "left out by a rule"

    def _refuse(self, sources: Iterable[str], targets: Iterable[str], reason: str) -> None:
        for path in (*sources, *targets):
            self.offers.reasons[path] = reason

    def _offer(self, path: str, offer: Offer) -> None:
        present = self.offers.by_target.get(path)
        if present is not None:
            raise _two_for_one(present.source, offer.source, path)
        self.offers.by_target[path] = offer


def _two_for_one(first: str, second: str, path: str) -> RestoreRuleError:
    return RestoreRuleError(
        f"{_KEY} gives two arrays of the checkpoint, {first!r} and {second!r}, the one name "
        f"{path!r}. Leave one of them out with a rule (regex, None) before, or join them by a "
        'transform, such as "stack(0)".'
    )


def _regex(pattern: str, key: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise RestoreRuleError(
            f"{key} has {pattern!r}, which is not a regular expression: {error}. Fix it."
        ) from error
