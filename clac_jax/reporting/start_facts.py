"""The record of a start of the program: whatever may change the bits of its steps."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import ml_collections

import clac_jax
from clac_jax.config import schema as config_lib
from clac_jax.distributed.program_facts import machine_settings, source_digest
from clac_jax.versions import package_versions

_GIT_SECONDS = 5


def start_facts(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Plain values: config, versions, source, devices, processes and settings of this start."""
    devices = jax.devices()
    return {
        "versions": {"python": platform.python_version(), **package_versions()},
        "source": source_digest(),
        "commit": commit(),
        "devices": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": len(devices),
            "local": jax.local_device_count(),
            "processes": jax.process_count(),
        },
        "host": platform.node(),
        "cpu": cpu_model(),
        "settings": machine_settings(),
        "config": config_lib.to_plain(config),
    }


def brief(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts that each checkpoint names; the others are in `starts.jsonl`."""
    return {name: facts[name] for name in ("source", "commit", "versions", "devices")}


def cpu_model() -> str:
    """The name of the processor, whose instructions the bits of a step on the CPU depend on."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the git checkout that the package is in; None if it is in none.

    "+" follows if files of the checkout were changed since.
    """
    root = Path(clac_jax.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    command = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        result = subprocess.run(
            command, cwd=root, capture_output=True, check=True, text=True, timeout=_GIT_SECONDS
        )
        return result.stdout.strip()
    return None
