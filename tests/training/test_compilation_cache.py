"""The compilation cache: damage, other machines and full disks cost a compilation, nothing else."""

import os
import stat
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.damage import DAMAGES
from helpers.paths import ROOT
from jax._src import compilation_cache as jax_cache

from clac_jax.training import compilation_cache
from clac_jax.training.compilation_cache import ProgramFiles, machine_kind, use_compilation_cache


@pytest.fixture
def counted(monkeypatch):
    """{"hits": n, "misses": n} of the cache, from JAX's own events; its settings are put back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    counts = {"hits": 0, "misses": 0}

    def count(event, **facts):
        kind = event.rpartition("cache_")[2]
        if kind in counts:
            counts[kind] += 1

    jax.monitoring.register_event_listener(count)
    yield counts
    jax.monitoring.unregister_event_listener(count)
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


def bits():
    """The result of a program, which JAX compiles or finds in the cache at each call."""
    x = np.linspace(0, 1, 999, dtype=np.float32).reshape(27, 37)
    return np.asarray(jax.jit(lambda x: jnp.tanh(x @ x.T).sum(axis=0) / 3)(x)).tobytes()


def programs(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damaged_program_is_compiled_again_and_replaced(tmp_path, counted, damage):
    use_compilation_cache(tmp_path)
    fresh, stored = bits(), programs(tmp_path)
    assert stored and counted == {"hits": 0, "misses": len(stored)}
    assert bits() == fresh
    assert counted["hits"] == len(stored)
    for path in stored:
        DAMAGES[damage](path)
    assert bits() == fresh
    assert counted == {"hits": len(stored), "misses": 2 * len(stored)}
    assert programs(tmp_path) == stored
    assert bits() == fresh
    assert counted["hits"] == 2 * len(stored)


def test_a_program_of_a_different_version_costs_a_compilation(tmp_path, counted, recwarn):
    """Intact, with the right name, but not what this version of XLA can read."""
    use_compilation_cache(tmp_path)
    fresh = bits()
    (stored,) = programs(tmp_path)
    ProgramFiles(stored.parent).put(stored.name, b"of a different version")
    assert bits() == fresh
    recwarn.clear()


def test_a_kind_of_machine_has_its_own_folder(monkeypatch):
    own = compilation_cache._cpu_facts()
    kinds = {machine_kind()}
    for other in ([*own, "flags: amx"], own[:-1], []):
        monkeypatch.setattr(compilation_cache, "_cpu_facts", lambda other=other: other)
        kinds.add(machine_kind())
    monkeypatch.undo()
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(77)))
    kinds.add(machine_kind())
    assert len(kinds) == 5
    assert all(kind.startswith("cpu-jaxlib-0.") for kind in kinds)


def test_the_kind_is_the_same_at_each_start():
    code = "from clac_jax.training.compilation_cache import machine_kind; print(machine_kind())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == machine_kind()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_without_permission_is_reported_once(tmp_path, counted, capsys):
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    check_reported_once(tmp_path / "cache", capsys)


def test_a_file_in_place_of_the_folder_is_reported_once(tmp_path, counted, capsys):
    (tmp_path / "cache").write_text("not a folder")
    check_reported_once(tmp_path / "cache", capsys)


def test_a_full_disk_is_reported_once_and_leaves_nothing(tmp_path, counted, capsys, monkeypatch):
    def full(path, value):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compilation_cache, "write_checked", full)
    check_reported_once(tmp_path, capsys)
    assert programs(tmp_path) == []


def check_reported_once(folder, capsys):
    use_compilation_cache(folder)
    assert bits() == bits()
    error = capsys.readouterr().err
    assert error.count("Cannot keep compiled programs in") == 1
    assert "The run continues" in error


def test_leftovers_of_a_kill_do_no_harm(tmp_path, counted):
    use_compilation_cache(tmp_path)
    fresh = bits()
    (stored,) = programs(tmp_path)
    stored.with_name(f".{stored.name}.99999.tmp").write_bytes(b"half")
    assert bits() == fresh
    assert counted["hits"] == 1
