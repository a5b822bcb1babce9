"""The compilation cache: compiled programs on disk, checked, and separate for each kind of machine.

JAX's own cache writes entries in place and trusts what it reads, and its key does not know the CPU:
a program compiled for one type may crash on another, or round differently. Here every entry has a
checksum and is replaced as one, and each kind of machine has its own folder, so that one cache can
be shared by a mixed cluster. Whatever is wrong with the cache, a run compiles instead.
"""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax
import jaxlib
from jax._src import compilation_cache as jax_cache  # no public function sets its storage
from jax._src.compilation_cache_interface import CacheInterface

from clac_jax.errors import warn
from clac_jax.files.paths import explain
from clac_jax.files.user_cache import read_checked, write_checked

_CPU_FACTS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")
_CPU_FACTS_OF_ARM = ("CPU implementer", "CPU architecture", "CPU variant", "CPU part", "Features")


def use_compilation_cache(folder: Path) -> None:
    """Keeps programs that are compiled from now on in a folder, and takes them from there.

    Small programs are kept as well: a start compiles dozens of them. Call it after the processes
    of a run are connected, since it initializes the devices.

    Args:
        folder: may be shared by processes and machines of any kind; created if it does not exist.
    """
    own = folder / machine_kind()
    jax_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax_cache._cache = ProgramFiles(own)
    jax_cache._cache_initialized = True


class ProgramFiles(CacheInterface):
    """One file per program, which starts with the checksum of the rest."""

    def __init__(self, folder: Path):
        """Sets the folder, which is created with the first program."""
        self._path = folder  # the name under which JAX logs it
        self._can_write = True

    def get(self, key: str) -> bytes | None:
        """Returns a program; None if there is none or its file is damaged."""
        return read_checked(self._path / key)

    def put(self, key: str, value: bytes) -> None:
        """Stores a program, in place of a damaged file.

        If the folder cannot be written to, that is reported once, and nothing more is stored.
        """
        if not self._can_write:
            return
        try:
            write_checked(self._path / key, value)
        except OSError as error:
            self._can_write = False
            warn(
                f"Cannot keep compiled programs in {self._path} (config.compilation_cache): "
                f"{explain(error)} The run continues, and later starts compile again."
            )

    def clear(self) -> None:
        """Removes nothing: other runs use the folder, too."""


def machine_kind() -> str:
    """The name of the folder for this kind of machine: its devices, JAX version, and a hash.

    The hash covers what compiled programs may depend on: model and instruction set of the CPU,
    also for accelerators, whose programs contain code for the host; the number of cores, among
    which XLA divides the work; the version of the driver.
    """
    device = jax.devices()[0]
    client = device.client
    facts = [device.device_kind, client.platform_version, *_cpu_facts(), str(cores())]
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    name = "".join(letter if letter.isalnum() else "-" for letter in device.device_kind.lower())
    return f"{name[:40]}-jaxlib-{jaxlib.version.__version__}-{digest}"


def _cpu_facts() -> list[str]:
    """Model and instruction set of the CPU."""
    facts = {platform.machine(), platform.processor()}
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:  # machines with cores of several types list them all
                name, _, value = line.partition(":")
                if name.strip() in (*_CPU_FACTS, *_CPU_FACTS_OF_ARM):
                    facts.add(f"{name.strip()}: {' '.join(sorted(value.split()))}")
    except OSError:  # not Linux
        facts.add(platform.platform())
    return sorted(facts)


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
