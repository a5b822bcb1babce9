"""Growth: a larger model that computes what a smaller one has computed.

`plan` compares the shapes of two models of the same kind and says how each array of the larger one
comes from those of the smaller one: units are copied (`widening`), new layers begin without effect,
new rows belong to inputs that the smaller model did not have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from clac_jax.errors import UserError, counted
from clac_jax.models.anatomy import Anatomy, Layers
from clac_jax.surgery.resizing import Fill, Pad
from clac_jax.surgery.rows import AddMeans, Vocabulary
from clac_jax.surgery.transform import Chain, Shape, Transform
from clac_jax.surgery.widening import (
    CONSTANT,
    ArrayAxes,
    Sizes,
    Widen,
    axis_size,
    is_constant,
    read_axes,
)

Shapes = Mapping[str, Shape]


ADDED = "of an added layer"
FIRST = "of the first layers of this kind"


@dataclass(frozen=True)
class Refusal:
    """A change of sizes that would change what the model computes.

    Attributes:
        reason: a sentence that says why, and one that says what to do.
        arrays: the arrays of the larger model that it concerns, without the part of the state.
    """

    reason: str
    arrays: tuple[str, ...]


class GrowthError(UserError, ValueError):
    """A model cannot be grown to other sizes without changing what it computes.

    Attributes:
        refusals: each reason.
    """

    def __init__(self, refusals: Sequence[Refusal]):
        super().__init__("\n".join(each.reason for each in refusals))
        self.refusals = tuple(refusals)


@dataclass(frozen=True)
class Grown:
    """The origin of an array of the larger model.

    Attributes:
        source: name of the array of the smaller model from which it comes; None: from none, it is
            as it is initialized.
        transform: what is applied to that; None: nothing.
        reason: short explanation.
    """

    source: str | None
    transform: Transform | None = None
    reason: str = ""


@dataclass(frozen=True)
class Old:
    """Facts about the smaller model besides its shapes.

    Attributes:
        sizes: numbers of units that do not follow from the shapes, see `Anatomy.sizes`; those
            missing are the larger model's.
        tokenizers: folders of its tokenizer and of the larger model's, if they differ.
    """

    sizes: Mapping[str, int] = field(default_factory=dict)
    tokenizers: tuple[str, str] | None = None


def plan(saved: Shapes, wanted: Shapes, anatomy: Anatomy, old: Old = Old()) -> dict[str, Grown]:
    """The origin of each array of a larger model that continues a smaller one.

    Args:
        saved: name -> shape of the smaller model's parameters and statistics, without the part of
            the state ("graph_encoder/embedding/kernel"), renamed to the names of the larger model.
        wanted: the same of the larger model.
        anatomy: that of the larger model.
        old: more about the smaller one.

    Returns:
        An entry for each array that is not simply the saved one of its name; arrays of modules that
        the smaller model does not have are left out, unless they belong to an added layer.

    Raises:
        GrowthError: it is not possible.
    """
    refusals = [
        refusal
        for layers in anatomy.layers
        if (refusal := _refused_layers(layers, saved, wanted)) is not None
    ]
    entries = {
        name: entry
        for layers in anatomy.layers
        for name, entry in _added_layers(layers, saved, wanted)
    }
    sources = {name: name for name in wanted if name in saved and name not in entries}
    sources |= {name: entry.source for name, entry in entries.items() if entry.source is not None}
    axes = {name: text for name in sources if (text := _axes_of(name, anatomy)) is not None}
    for name, source in sources.items():
        text = axes.get(name)
        if text is None:
            fits = saved[source] == wanted[name]
        else:
            fits = _constants_fit(text, saved[source], wanted[name])
        if not fits:
            axes.pop(name, None)
            reason = (
                f"The array {name} cannot be grown from {saved[source]} to {wanted[name]}: its "
                "module does not declare which axis belongs to units to copy (`anatomy`). "
                "Leave its size as it was, or add --config.restore.on_shape_mismatch=skip."
            )
            refusals.append(Refusal(reason, (name,)))
    before = _sizes(axes, {name: saved[source] for name, source in sources.items()}, anatomy, old)
    after = _sizes(axes, wanted, anatomy, Old())
    sizes = {units: (before[units], after[units]) for units in before}
    refusals += _refused_sizes(sizes, axes, anatomy, old)
    if refusals:
        raise GrowthError(refusals)
    for name, text in axes.items():
        steps, reasons = _steps(text, sizes, anatomy, old)
        if steps:
            reasons += [note for rule, note in anatomy.notes.items() if re.fullmatch(rule, name)]
            transform = steps[0] if len(steps) == 1 else Chain(tuple(steps))
            if name in entries:
                reasons.insert(0, entries[name].reason)
            entries[name] = Grown(sources[name], transform, reason="; ".join(reasons))
    return entries


def grown(
    entries: Mapping[str, Grown],
    saved: Mapping[str, np.ndarray],
    fresh: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The arrays of the larger model: those that `plan` describes, and the saved ones.

    Args:
        entries: the result of `plan`.
        saved: name -> array of the smaller model.
        fresh: name -> array of the larger model as it is initialized.
    """
    result = {name: saved.get(name, array) for name, array in fresh.items()}
    rng = np.random.default_rng(0)
    for name, entry in entries.items():
        result[name] = fresh[name] if entry.source is None else saved[entry.source]
        if entry.transform is not None:
            (result[name],) = entry.transform.apply([result[name]], (fresh[name].shape,), rng)
    return result


def _refused_layers(layers: Layers, saved: Shapes, wanted: Shapes) -> Refusal | None:
    """Why the number of layers of a kind cannot change as it does; None if it can."""
    before, after = (_count(layers, shapes) for shapes in (saved, wanted))
    start = f"The model has {counted(after, layers.noun)} and the checkpoint {before}; "
    if after < before:
        reason = f"{start}growth removes none. Use at least {before}."
    elif after > before and layers.refusal:
        reason = (
            f"{start}none can be added that changes nothing: {layers.refusal}. Use {before}, or "
            "start new ones with on_shape_mismatch=skip and strict=False."
        )
    else:
        return None
    numbers = ((name, re.match(layers.pattern, name)) for name in {**wanted, **saved})
    fewer = min(before, after)
    return Refusal(reason, tuple(name for name, m in numbers if m and int(m[1]) >= fewer))


def _added_layers(layers: Layers, saved: Shapes, wanted: Shapes) -> Iterator[tuple[str, Grown]]:
    """The entries of the arrays of layers that are added, or that change places with them."""
    before, after = (_count(layers, shapes) for shapes in (saved, wanted))
    if before >= after:
        return
    for name in wanted:
        found = re.match(layers.pattern, name)
        if not found:
            continue
        number, moves = int(found[1]), _matches(layers.last, name)
        if moves and number == after - 1 and before:
            previous = f"{name[: found.start(1)]}{before - 1}{name[found.end(1) :]}"
            yield name, Grown(previous, reason=f"from layer {before - 1}, the last one before")
        elif number >= before:
            yield name, _new(layers, name, ADDED if before else FIRST)
        elif moves and number == before - 1:
            reason = f"the saved one moves to layer {after - 1}"
            yield name, _new(layers, name, reason)


def _count(layers: Layers, shapes: Shapes) -> int:
    numbers = (re.match(layers.pattern, name) for name in shapes)
    return max((int(found[1]) + 1 for found in numbers if found), default=0)


def _new(layers: Layers, name: str, reason: str) -> Grown:
    """An array of a layer without effect."""
    for rule, value in layers.values.items():
        if re.fullmatch(rule, name):
            return Grown(None, Fill(float(value)), reason)
    return Grown(None, reason=reason)


def _matches(patterns: Sequence[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _axes_of(name: str, anatomy: Anatomy) -> str | None:
    return next((text for rule, text in anatomy.axes.items() if re.fullmatch(rule, name)), None)


def _sizes(axes: Mapping[str, str], shapes: Shapes, anatomy: Anatomy, old: Old) -> dict[str, int]:
    """The number of each kind of units in a model, from the shapes of its arrays."""
    known = {**anatomy.sizes, **old.sizes}
    places = [
        (name, axis, terms)
        for name, text in axes.items()
        for axis, terms in enumerate(read_axes(text).axes)
        if not is_constant(terms)
    ]
    for name, text in axes.items():
        if len(shapes[name]) != len(read_axes(text).axes):
            raise _misfit(name, text, shapes[name])
    solved = True
    while solved:
        solved = False
        for name, axis, terms in places:
            unknown = {f.units for term in terms for f in term.factors} - known.keys()
            if len(unknown) == 1:
                (units,) = unknown
                # The length is a straight line in the number of the one kind that is not known.
                start, end = (axis_size(terms, {**_pairs(known), units: (n, n)}, 0) for n in (0, 1))
                known[units] = (shapes[name][axis] - start) // max(end - start, 1)
                solved = True
    used = {f.units for _, _, terms in places for term in terms for f in term.factors}
    for name, axis, terms in places:
        missing = used - known.keys()
        if missing or axis_size(terms, _pairs(known), 0) != shapes[name][axis]:
            raise _misfit(name, axes[name], shapes[name])
    return {units: known[units] for units in sorted(used)}


def _constants_fit(text: str, saved: Shape, wanted: Shape) -> bool:
    """Whether the axes that never grow are as long as before."""
    return all(
        before == after
        for terms, before, after in zip(read_axes(text).axes, saved, wanted, strict=False)
        if is_constant(terms)
    )


def _pairs(sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    return {units: (size, size) for units, size in sizes.items()}


def _misfit(name: str, text: str, shape: Shape) -> GrowthError:
    reason = (
        f"The array {name} of shape {shape} does not have the axes {text!r}, which its module "
        "declares. Use a checkpoint of the same kind of model."
    )
    return GrowthError([Refusal(reason, (name,))])


def _refused_sizes(
    sizes: Sizes, axes: Mapping[str, str], anatomy: Anatomy, old: Old
) -> Iterator[Refusal]:
    for units, (before, after) in sizes.items():
        if units in anatomy.rows and anatomy.rows[units] == "tokens" and old.tokenizers:
            continue
        if after < before:
            reason = (
                f"{units} would shrink from {before} to {after}, and growth keeps what the model "
                "computes. Choose a size of at least that, or another on_shape_mismatch."
            )
        elif after > before and units in anatomy.fixed:
            reason = (
                f"{units} cannot grow from {before} to {after}: {anatomy.fixed[units]}. "
                f"Leave it at {before}."
            )
        elif units in anatomy.even and after % before:
            reason = (
                f"{units} cannot grow from {before} to {after}: {anatomy.even[units]}, so that "
                f"each must have equally many copies. Choose a multiple of {before}."
            )
        else:
            continue
        yield Refusal(reason, tuple(n for n, text in axes.items() if units in _units(text)))


def _steps(
    text: str, sizes: Sizes, anatomy: Anatomy, old: Old
) -> tuple[list[Transform], list[str]]:
    """The transforms of an array, one after the other, and the reasons for them."""
    read = read_axes(text)
    rows = [(axis, units) for axis, units in _row_axes(read) if units in anatomy.rows]
    steps: list[Transform] = []
    reasons = []
    widened = _units(text) - anatomy.rows.keys()
    grown = sorted(units for units in widened if _grows(sizes[units]))
    if grown:
        plain = text
        for _, units in rows:
            plain = re.sub(rf"(?<![\w/]){re.escape(units)}(?![\w/])", CONSTANT, plain)
        used = tuple((units, *sizes[units]) for units in sorted(widened))
        steps.append(Widen(plain, used))
        reasons += [_change(units, sizes) for units in grown]
    for axis, units in rows:
        if anatomy.rows[units] == "tokens" and old.tokenizers:
            steps.append(Vocabulary(*old.tokenizers, axis))
            reasons.append("rows by token")
        elif _grows(sizes[units]):
            steps.append(Pad(axis) if anatomy.rows[units] == "zeros" else AddMeans(axis))
            reasons.append(_change(units, sizes))
    return steps, reasons


def _row_axes(read: ArrayAxes) -> Iterator[tuple[int, str]]:
    for axis, terms in enumerate(read.axes):
        if len(terms) == 1 and len(terms[0].factors) == 1:
            yield axis, terms[0].factors[0].units


def _units(text: str) -> set[str]:
    read = read_axes(text)
    return set().union(*(read.units(axis) for axis in range(len(read.axes))))


def _grows(size: tuple[int, int]) -> bool:
    return size[0] != size[1]


def _change(units: str, sizes: Sizes) -> str:
    before, after = sizes[units]
    return f"{units} {before} -> {after}"
