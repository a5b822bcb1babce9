"""Growth in a restore: arrays of a smaller model for a larger one (`on_shape_mismatch="grow"`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import ml_collections

from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.renaming import (
    AVERAGE,
    MOMENTS,
    STARTS_OVER,
    STRICT_PARTS,
    Change,
    Offer,
    Offers,
    Saved,
    Shape,
    Shapes,
    parameter_names,
    part_of,
    split_name,
)
from clac_jax.config.encoders import fill_defaults
from clac_jax.config.schema import from_plain
from clac_jax.surgery.growth import Grown, GrowthError, Old, Refusal, plan
from clac_jax.surgery.transform import Transform

Grow = Callable[[Shapes, Shapes], Mapping[str, Grown]]
"""(saved, wanted) shapes by names without their part -> the arrays that are not simply restored."""


def growth_of(config: ml_collections.ConfigDict, info: CheckpointInfo | None) -> Grow:
    """The growth of a config's model out of that of a checkpoint; see `growth.plan`.

    Args:
        config: the config of the larger model.
        info: the checkpoint; None if it is of another program.
    """
    from clac_jax.models.model_anatomy import model_anatomy  # imports all models

    old = Old()
    if info is not None:
        before = from_plain(info.config)
        fill_defaults(before)
        tokenizers = before.text_encoder.tokenizer, config.text_encoder.tokenizer
        differ = tokenizers if tokenizers[0] != tokenizers[1] else None
        old = Old(model_anatomy(before).sizes, differ)
    return functools.partial(plan, anatomy=model_anatomy(config), old=old)


def grow_offers(offers: Offers, saved: Saved, wanted: Shapes, grow: Grow) -> None:
    """Changes what a source has for a model to what the larger model needs.

    Args:
        offers: the offers of the source, by its rules; changed in place.
        saved: the arrays of the source.
        wanted: slash path -> shape in the model.
        grow: see `growth_of`.

    Raises:
        GrowthError: it is not possible.
    """
    by_rules = dict(offers.by_target)
    names: dict[str, tuple[int, ...]] = {}
    for path, offer in by_rules.items():
        part, _, name = path.partition("/")
        if part in STRICT_PARTS:
            shape = saved.shapes[offer.source] if offer.change is None else offer.change.shape
            names[name] = shape
    after = {
        path.partition("/")[2]: shape
        for path, shape in wanted.items()
        if path.partition("/")[0] in STRICT_PARTS
    }
    # Of a module that the source does not have, nothing grows.
    there = {name.partition("/")[0] for name in names}
    after = {name: shape for name, shape in after.items() if name.partition("/")[0] in there}
    entries = grow(names, after)
    parameters = parameter_names(path for path in wanted if part_of(path) == "params")
    for path, shape in wanted.items():
        prefix, name = split_name(path, parameters)
        entry = entries.get(name) if name else None
        if entry is None:
            continue
        offers.by_target.pop(path, None)
        kind = prefix.rstrip("/").rpartition("/")[2]
        is_moment = part_of(path) == "opt_state" and prefix != f"{AVERAGE}/"
        transform = entry.transform
        if is_moment and transform is not None and kind != "count":
            transform = transform.of_moment(MOMENTS.get(kind, 1))
            if transform is None or entry.source is None:
                offers.reasons[path] = STARTS_OVER
                continue
        if entry.source is None:
            if not is_moment:
                fill = Change(str(transform), (), (shape,), (shape,)) if transform else None
                offers.added[path] = (entry.reason, fill)
            continue
        base = by_rules.get(prefix + entry.source)
        if base is None:
            continue
        if kind == "count" and is_moment:
            offers.by_target[path] = base
        else:
            given = saved.shapes[base.source] if base.change is None else base.change.shape
            try:
                offers.by_target[path] = _grown(base, given, transform, shape)
            except ValueError as error:
                if part_of(path) == "opt_state":  # not of its parameter's shape: it starts over
                    offers.by_target[path] = base
                    continue
                reason = f"The array {name} cannot grow from {given} to {shape}: {error}."
                raise GrowthError([Refusal(reason, (name,))]) from error
            offers.reasons[path] = entry.reason
        offers.targets[base.source] = (*offers.targets.get(base.source, ()), path)


def _grown(base: Offer, given: Shape, transform: Transform | None, shape: Shape) -> Offer:
    """The offer, whose array of the shape `given` grows to another shape.

    Raises:
        ValueError: it cannot.
    """
    if transform is None:
        return base
    results = transform.shapes((given,), (shape,))
    # The rule's own step keeps its targets and its several results: "split" or "pad(0)".
    before = base.change if base.change is not None and base.change.transform else None
    inputs = (base.source,) if before is None else before.inputs
    return Offer(base.source, Change(str(transform), inputs, results, (shape,), before=before))
