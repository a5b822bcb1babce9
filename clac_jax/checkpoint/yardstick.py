"""Comparability of validations: what their values depend on besides the parameters.

A checkpoint keeps the metrics of its validation. Once the validation data, the batch within which
the loss contrasts, or the model itself has changed, these cannot be ranked against new ones.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from typing import Any

from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.retention import Retention
from clac_jax.config.run import all_keys
from clac_jax.config.schema import flatten, with_defaults

Metrics = dict[str, float] | None


def unlike(
    then: tuple[Mapping[str, Any], Mapping[str, str]],
    now: tuple[Mapping[str, Any], Mapping[str, str]],
) -> list[str]:
    """The reasons why the validations of two runs are not comparable, in words; [] if they are.

    Args:
        then: the nested config of a run, and split name -> fingerprint of its data ({} if unknown).
        now: config and data of the other run; its `checkpoint.monitor` is compared.
    """
    (config_then, data_then), (config_now, data_now) = then, now
    fingerprints = data_then.get("validation", ""), data_now.get("validation", "")
    found = []
    texts = [json.dumps(config, sort_keys=True) for config in (config_then, config_now)]
    # The keys are declared next to the encoders, which import JAX: `ckpt ls` of a run whose config
    # never changed does without them.
    if texts[0] != texts[1]:
        found = _other_keys(_flat(texts[0]), _flat(texts[1]), knows_data=all(fingerprints))
    if all(fingerprints) and fingerprints[0] != fingerprints[1]:
        found.append("other validation data")
    return found


def _other_keys(
    flat_then: Mapping[str, Any], flat_now: Mapping[str, Any], knows_data: bool
) -> list[str]:
    """The keys that differ and that affect a validation, in words."""
    # The origin of the weights and settings that act only in training do not matter.
    matters = {"model"}
    # Computed within a batch; the retrieval accuracies are computed over the entire split.
    in_batch = flat_now["checkpoint.monitor"] in ("val_loss", "val_acc_top1", "val_acc_top3")
    if in_batch and flat_now["task"] == "contrastive":
        matters.add("batch")
    if not knows_data:  # the checkpoint does not identify its examples
        matters.add("data")
    return [
        f"another {name}"
        for name, key in sorted(all_keys().items())
        if key.validation in matters and flat_then.get(name) != flat_now.get(name)
    ]


@functools.lru_cache(maxsize=64)
def _flat(config: str) -> dict[str, Any]:
    """A nested config as JSON -> one dict by dotted key, including defaults."""
    return flatten(with_defaults(json.loads(config)))


def retention_of(
    config: Mapping[str, Any], data: Mapping[str, str], intact: Mapping[int, CheckpointInfo]
) -> tuple[Retention, dict[int, Metrics]]:
    """The rules for a run's checkpoints, and the metrics by which to rank them.

    Checkpoints validated differently from how the run validates now get no metrics here; the best
    of each such group are kept.

    Args:
        config: the run's nested config.
        data: split name -> fingerprint of its data.
        intact: step -> intact checkpoint of the run.
    """
    retention = Retention.from_config(config["checkpoint"])
    ways = [(config, data)]
    groups: list[dict[int, Metrics]] = [{}]
    places: dict[str, int] = {}  # most checkpoints of a run share one config
    for step in sorted(intact, reverse=True):
        info = intact[step]
        # All checkpoints are compared by the present group `checkpoint`.
        way = {**info.config, "checkpoint": config["checkpoint"]}, info.data
        key = json.dumps([way[0], dict(way[1])], sort_keys=True)
        if key not in places:
            alike = (number for number, known in enumerate(ways) if not unlike(way, known))
            places[key] = next(alike, len(ways))
        if places[key] == len(ways):
            ways.append(way)
            groups.append({})
        groups[places[key]][step] = info.metrics
    metrics = {step: groups[0].get(step) for step in sorted(intact)}
    earlier = tuple(
        step for group in groups[1:] for step in retention.best_first(group)[: retention.num_best]
    )
    trained = {step: info.trained_seconds for step, info in intact.items()}
    hours = {step: seconds / 3600 for step, seconds in trained.items() if seconds is not None}
    return dataclasses.replace(retention, earlier_best=earlier, hours=hours), metrics
