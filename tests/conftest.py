"""Settings and fixtures shared by all tests."""

import gc
import importlib.metadata
import os
import tempfile

import pytest
from helpers.compilation_cache import open_cache
from helpers.paths import ROOT
from helpers.type_checks import checked
from helpers.warm_programs import WarmPrograms
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

# Nearly every program in the tests runs a few times on little data, so compilation dominates:
# reduce the optimization level. The variable is read when JAX is imported.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later versions reject the flag
    QUICK_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
if QUICK_COMPILATION not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILATION}".strip()

# Before the package is imported: on every call in these modules, also during JAX tracing, the axes
# named in annotations are checked for consistency.
install_import_hook(
    ["clac_jax.models", "clac_jax.training.losses"], f"{checked.__module__}.{checked.__name__}"
)


gc.disable()  # while the tests are imported, until `pytest_collection_finish`


def pytest_configure(config):
    """One compilation cache for all processes: those of pytest and those that tests start."""
    # No test fails because other work slows the machine down.
    settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("shared")
    # Workers, and a pytest that a test starts, inherit it from the process that starts them.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = open_cache(config)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    if "CLAC_JAX_CACHE" not in os.environ:  # nor is the user's own cache read or written
        own = tempfile.TemporaryDirectory(prefix="clac_jax_cache_")
        config.add_cleanup(own.cleanup)
        os.environ["CLAC_JAX_CACHE"] = own.name


def pytest_collection_finish():
    """Fewer garbage collections: tracing makes many objects, of which hardly any are garbage."""
    gc.collect()
    gc.freeze()  # modules and collected tests stay to the end
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The bundled data set: built by `make data`, or here for a bare `pytest`."""
    return ROOT / "data" if (ROOT / "data").is_dir() else tmp_path_factory.mktemp("data")


@pytest.fixture(scope="session")
def environment():
    """Environment variables of a program on one CPU device, or on `devices`."""
    flags = os.environ["XLA_FLAGS"]

    def build(devices=1):
        return os.environ | {
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
        }

    return build


@pytest.fixture(scope="session")
def programs(environment):
    """Two processes to fork programs from: with different hash seeds, as hosts have."""
    with WarmPrograms(environment()) as one, WarmPrograms(environment()) as other:
        yield one, other
