"""What all tests share."""

import importlib.metadata
import os
import tempfile

import pytest
from helpers.paths import ROOT
from helpers.type_checks import checked
from jaxtyping import install_import_hook

# Nearly every program of the tests runs a few times on a few numbers, so that most of the time went
# into compiling it: it is compiled with little care. Read when JAX is imported.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # later ones do not know the flag
    QUICK_COMPILATION += " --xla_cpu_use_fusion_emitters=false"
if QUICK_COMPILATION not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILATION}".strip()

# Before anything of the package is imported: the axes that annotations name are compared with each
# other on every call of these modules, also where JAX traces them.
install_import_hook(
    ["clac_jax.models", "clac_jax.training.losses"], f"{checked.__module__}.{checked.__name__}"
)


def pytest_configure(config):
    """What one process has compiled is there for all of them: pytest's own and what tests start."""
    if not hasattr(config, "workerinput"):  # which inherit it from the process that starts them
        cache = tempfile.TemporaryDirectory(prefix="compilation_cache_")
        config.add_cleanup(cache.cleanup)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache.name
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """The embedded data set: built by `make data`, or here for a bare `pytest`."""
    return ROOT / "data" if (ROOT / "data").is_dir() else tmp_path_factory.mktemp("data")
