"""The devices of this program, compared with those that did a step."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import jax

from clac_jax.replay.history import History, Start
from clac_jax.session import set_xla_flags

NUMERIC_PACKAGES = ("jax", "jaxlib", "numpy", "scipy", "tokenizers", "flax", "optax")
"""Packages whose version may change the bits of a step."""


def prepare_devices(history: History, step: int) -> None:
    """Sets the flags of XLA with which a step was done, before a device is used.

    The CPU is divided into as many devices as the step had. Other devices cannot be divided; nor
    can those of a program that has used one, and reading a checkpoint does.

    Args:
        history: what the run has recorded.
        step: the step.

    Raises:
        ReplayError: see `History.config_of`.
    """
    set_xla_flags(history.config_of(step))
    start = history.start_of(step)
    if start.devices.get("platform") != "cpu" or start.count < 2:
        return
    flag = "--xla_force_host_platform_device_count="
    flags = [each for each in os.environ.get("XLA_FLAGS", "").split() if not each.startswith(flag)]
    os.environ["XLA_FLAGS"] = " ".join([*flags, f"{flag}{start.count}"])


def lawful_difference(start: Start) -> str:
    """Why the steps of a start may have other bits here; "" if they must be equal."""
    then, now = start.devices, devices_here()
    reasons = []
    if then:
        if (then.get("platform"), then.get("kind")) != (now["platform"], now["kind"]):
            reasons.append(f"the devices were {then.get('kind')} and are {now['kind']}")
        if then.get("count") != now["count"]:
            counts = then.get("count"), now["count"]
            reasons.append("it was done on {}, and here on {}".format(*map(_devices, counts)))
    versions = versions_here()
    reasons += [
        f"{name} was {start.versions[name]} and is {versions.get(name, 'not installed')}"
        for name in NUMERIC_PACKAGES
        if name in start.versions and start.versions[name] != versions.get(name)
    ]
    return "; ".join(reasons)


def devices_here() -> dict[str, Any]:
    """The devices of this program, as a journal records them."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
    }


def versions_here() -> Mapping[str, str]:
    """The versions of the packages of this program, as a journal records them."""
    from clac_jax.versions import package_versions

    return {"python": platform.python_version(), **package_versions()}


def _devices(count: Any) -> str:
    return f"{count} device{'s' * (count != 1)}"
