"""Settings and fixtures shared by all tests."""

import gc
import importlib.metadata
import os
import tempfile

import pytest
from helpers.paths import ROOT
from helpers.type_checks import checked
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
    """One compilation cache for all processes: those of pytest and those that tests start.

    A folder that the caller names in JAX_COMPILATION_CACHE_DIR also serves later runs.
    """
    # Workers, and a pytest that a test starts, inherit it from the process that starts them.
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        cache = tempfile.TemporaryDirectory(prefix="compilation_cache_")
        config.add_cleanup(cache.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


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
