"""Facts about the program that all processes of a run must share.

Each process builds its program from its own config, packages and data. If these differ, the
replicas silently diverge, or wait for each other indefinitely; so they are compared first.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_collections
import numpy as np

import clac_jax
from clac_jax.config import schema as config_lib
from clac_jax.config.run import all_keys
from clac_jax.distributed.agreement import Facts
from clac_jax.files.huggingface import resolve_folder
from clac_jax.versions import package_versions

# Packages of the examples' views, and of JAX's backends with their compilers; some may be missing.
OTHER_PACKAGES: tuple[str, ...] = ("tokenizers", "spglib")
OTHER_PACKAGES += ("jax-cuda12-plugin", "jax-cuda13-plugin", "jax-rocm7-plugin", "libtpu")
SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_numpy_dtype_promotion",
    "jax_numpy_rank_promotion",
    "jax_disable_jit",
    "jax_debug_nans",
    "jax_platforms",
    "jax_cpu_collectives_implementation",
)
VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "NVIDIA_TF32_OVERRIDE")
# XLA's diagnostic output, and the number of CPU devices, which is compared separately.
OWN_XLA_FLAGS = re.compile(r"--xla_(dump_|force_host_platform_device_count).*")
TOKENIZER_FILES: tuple[str, ...] = ("tokenizer.json", "tokenizer_config.json")
TOKENIZER_FILES += ("vocab.txt", "vocab.json", "merges.txt", "special_tokens_map.json")


def of_program(config: ml_collections.ConfigDict) -> Facts:
    """Facts about the program of this process: versions, source, JAX settings and the config.

    Raises:
        UserError: the folder of the tokenizer or of the pretrained model does not exist.
    """
    facts = {"the version of Python": ".".join(platform.python_version_tuple()[:2])}
    for name, version in package_versions().items():
        facts[f"the version of {name}"] = version
    for name in OTHER_PACKAGES:
        facts[f"the version of {name}"] = _installed(name)
    facts["the source of clac-jax"] = source_digest()
    for name, value in machine_settings().items():
        facts[name if name in VARIABLES else f"the JAX setting {name}"] = value
    for key, value in config_lib.flatten(config_lib.to_plain(config)).items():
        if not all_keys()[key].per_process:  # files at these paths are compared by content
            facts[f"config key {key}"] = repr(value)
    encoder = config.text_encoder
    facts["the content of config key text_encoder.tokenizer"] = _digest_of_files(
        resolve_folder(encoder.tokenizer), TOKENIZER_FILES
    )
    # The first process sends its weights to the others, which only need the sizes of the model.
    facts["the config.json of config key text_encoder.pretrained"] = (
        "none"
        if encoder.pretrained is None
        else _digest_of_files(resolve_folder(encoder.pretrained), ("config.json",))
    )
    facts["config key graph_encoder.pretrained"] = (
        "none" if config.graph_encoder.pretrained is None else "a file"
    )
    return facts


def of_arrays(shapes: Mapping[str, jax.ShapeDtypeStruct]) -> Facts:
    """Facts about the arrays of the state, by slash path."""
    return {
        f"the array {path}": f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
        for path, leaf in shapes.items()
    }


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def machine_settings() -> dict[str, str]:
    """Settings of JAX and its compilers that may change the numbers: `SETTINGS`, `VARIABLES`."""
    settings = {name: str(jax.config.values.get(name)) for name in SETTINGS}
    for name in VARIABLES:
        words = os.environ.get(name, "").split()
        settings[name] = " ".join(sorted(word for word in words if not OWN_XLA_FLAGS.match(word)))
    return settings


def source_digest() -> str:
    """A digest of the source files of this package."""
    folder = Path(clac_jax.__file__).parent
    return _digest_of_files(folder, [str(f.relative_to(folder)) for f in folder.rglob("*.py")])


def _digest_of_files(folder: Path, names: list[str] | tuple[str, ...]) -> str:
    """A digest of the names and contents of those files that exist."""
    digest = hashlib.sha256()
    for name in sorted(names):
        file = folder / name
        if file.is_file():
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(f"{name} {content}\n".encode())
    return f"of digest {digest.hexdigest()[:12]}"
