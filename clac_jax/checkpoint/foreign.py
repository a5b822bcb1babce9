"""Sources of a restore that other programs have written.

- a PyTorch file (.ckpt of Lightning, .pt, .pth, .bin): the tensors of its state dict;
- a safetensors file, also one of `clac-jax publish`;
- a folder of Hugging Face with one of these, or with several and an index;
- a folder of Orbax with any tree.

Their arrays get slash paths like those of a checkpoint of this program. "encoder.layer.0.weight" is
"params/encoder/layer/0/weight"; running averages of PyTorch are in "batch_stats/", and integers, of
which no model here has any, in "buffers/".
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from clac_jax.checkpoint.arrays import only_this_process
from clac_jax.checkpoint.files import MANIFEST
from clac_jax.checkpoint.layout import RUN_FILE, is_step
from clac_jax.checkpoint.quiet import quiet_threads
from clac_jax.checkpoint.sources import ForeignArrays, SavedArray
from clac_jax.errors import UserError, one_line
from clac_jax.files.huggingface import resolve_folder
from clac_jax.files.json import read_json_object
from clac_jax.files.paths import local_path
from clac_jax.files.safetensors import read_safetensors, safetensors_shapes
from clac_jax.files.torch import TensorFacts, read_torch_file
from clac_jax.stores.copies import local_copy
from clac_jax.stores.url import is_url

Facts = Mapping[str, tuple[tuple[int, ...], np.dtype]]

HUB = "hf:"
_TORCH = (".ckpt", ".pt", ".pth", ".bin")
_STATE_DICTS = ("state_dict", "model_state_dict", "model")  # where programs put the tensors
_RUNNING = ("running_mean", "running_var")
_TREE_FILE = "_METADATA"  # of Orbax, in the folder of a tree
_ITEMS = ("default", "state", "params")  # usual names of the tree in a step of Orbax's manager
_PARTS = ("params", "batch_stats", "opt_state", "step", "key", "ema")
_FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)


class ForeignFileError(UserError):
    """A file or folder of another program cannot be a source."""


def open_foreign(name: str) -> ForeignArrays | None:
    """The arrays in a file or folder of another program; None if it is not one.

    Only names and shapes are read.

    Args:
        name: path or URL of a file or folder, or "hf:owner/name" for a model on the Hub.

    Raises:
        ForeignFileError: it holds nothing that can be used.
        TorchFileError, SafetensorsError, PretrainedError, StoreError: it cannot be read.
    """
    if name.startswith(HUB):
        return _huggingface(name, resolve_folder(name.removeprefix(HUB)))
    if is_url(name):
        if not name.endswith((*_TORCH, ".safetensors")):
            return None
        return _file(name, local_copy(name, "The name of a source"))
    path = local_path(name, "The name of a source")
    if path.is_file() and path.suffix in (*_TORCH, ".safetensors"):
        return _file(name, path)
    if not path.is_dir() or _is_ours(path):
        return None
    if _weight_files(path):
        return _huggingface(name, path)
    tree = _tree_folder(path)
    return None if tree is None else _orbax(name, tree)


def _file(name: str, path: Path) -> ForeignArrays:
    kind = "safetensors" if path.suffix == ".safetensors" else "PyTorch"
    return _of_files(name, path, kind, [path])


def _huggingface(name: str, folder: Path) -> ForeignArrays:
    files = _weight_files(folder)
    if not files:
        raise ForeignFileError(
            f"{folder} holds neither model.safetensors nor pytorch_model.bin. Give a folder with "
            "one of them."
        )
    return _of_files(name, folder, "Hugging Face", files)


def _weight_files(folder: Path) -> list[Path]:
    """The files with the tensors of a folder of Hugging Face; empty if it is not one."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                files = set(read_json_object(index)["weight_map"].values())
            except (KeyError, ValueError, AttributeError, TypeError, OSError) as error:
                raise ForeignFileError(
                    f"{index} is not an index of tensors ({one_line(error)}). Download it again."
                ) from error
            if not all(isinstance(file, str) and Path(file).name == file for file in files):
                raise ForeignFileError(
                    f"{index} names files outside of its folder. Download it again."
                )
            return [folder / file for file in sorted(files)]
    return []


def _of_files(name: str, place: Path, kind: str, files: list[Path]) -> ForeignArrays:
    names: dict[str, tuple[Path, str]] = {}  # slash path -> file, and name in it
    leaves = {}
    for file in files:
        for tensor, (shape, dtype) in _facts(file).items():
            path = _slash_path(tensor, dtype)
            if path in names:
                raise ForeignFileError(
                    f"{place} holds two arrays that are called {path} here. Rename one of them."
                )
            names[path] = file, tensor
            leaves[path] = SavedArray(shape, str(dtype))
    if not leaves:
        raise ForeignFileError(f"{place} holds no tensors by name. Give a file with a state dict.")

    def read(paths: Collection[str]) -> Mapping[str, np.ndarray]:
        arrays: dict[str, np.ndarray] = {}
        for file in files:
            wanted = {path: names[path][1] for path in paths if names[path][0] == file}
            if wanted:
                tensors = _tensors(file)
                arrays |= {path: tensors[tensor] for path, tensor in wanted.items()}
        return arrays

    return ForeignArrays(name, leaves, kind, str(place), read)


def _facts(file: Path) -> Facts:
    if file.suffix == ".safetensors":
        return safetensors_shapes(file)[0]
    found = _state_dict(read_torch_file(file, with_numbers=False))
    return {
        name: (each.shape, each.dtype)
        for name, each in found.items()
        if isinstance(name, str) and isinstance(each, TensorFacts)
    }


def _tensors(file: Path) -> Mapping[str, np.ndarray]:
    if file.suffix == ".safetensors":
        return read_safetensors(file)[0]
    return _state_dict(read_torch_file(file))


def _state_dict(content: Any) -> dict[str, Any]:
    """The tensors by name: the content of the file itself, or its state dict."""
    for name in _STATE_DICTS:
        if isinstance(content, dict) and isinstance(content.get(name), dict):
            return dict(content[name])
    return dict(content) if isinstance(content, dict) else {}


def _slash_path(name: str, dtype: np.dtype) -> str:
    if name.startswith(("params/", "batch_stats/")):  # a model that `clac-jax publish` has written
        return name
    names = name.replace(".", "/")
    if dtype not in _FLOATS:
        return f"buffers/{names}"
    return f"{'batch_stats' if names.endswith(_RUNNING) else 'params'}/{names}"


def _tree_folder(folder: Path) -> Path | None:
    """The folder of a tree of Orbax: the folder itself, an item of a step, or the newest step."""
    if (folder / _TREE_FILE).is_file():
        return folder
    items = [folder / item for item in _ITEMS if (folder / item / _TREE_FILE).is_file()]
    if items:
        return items[0]
    steps = [int(path.name) for path in folder.iterdir() if is_step(path.name)]
    newest = folder / str(max(steps, default=""))
    return None if newest == folder or _is_ours(newest) else _tree_folder(newest)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is a checkpoint of this program."""
    return any((folder / file).exists() for file in (RUN_FILE, MANIFEST))


def _orbax(name: str, folder: Path) -> ForeignArrays:
    place = epath.Path(folder).resolve()
    quiet_threads()
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=only_this_process())
    try:
        metadata = handler.metadata(place)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ForeignFileError(
            f"{folder} is not a tree of Orbax that can be read ({one_line(error)}). Save it again."
        ) from error
    tree = getattr(metadata, "tree", metadata)
    flat = {
        path: (tuple(leaf.shape), np.dtype(leaf.dtype))
        for path, leaf in _flat(tree).items()
        if getattr(leaf, "shape", None) is not None and getattr(leaf, "dtype", None) is not None
    }
    renamed = _in_parts(flat)
    leaves = {path: SavedArray(*_plain(flat[saved])) for path, saved in renamed.items()}
    if not leaves:
        raise ForeignFileError(f"{folder} holds no arrays. Give the folder of a different step.")

    def read(paths: Collection[str]) -> Mapping[str, np.ndarray]:
        heads = {renamed[path].split("/", 1)[0] for path in paths}
        wanted = {key: tree[key] for key in heads} if isinstance(tree, dict) else tree
        args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
        with ocp.Checkpointer(handler, multiprocessing_options=only_this_process()) as checkpointer:
            restored = checkpointer.restore(
                place,
                args=ocp.args.PyTreeRestore(item=wanted, restore_args=args, partial_restore=True),
            )
        arrays = _flat(restored)
        return {path: np.asarray(arrays[renamed[path]]) for path in paths}

    return ForeignArrays(name, leaves, "Orbax", str(folder), read)


def _plain(facts: tuple[tuple[int, ...], np.dtype]) -> tuple[tuple[int, ...], str]:
    return facts[0], str(facts[1])


def _in_parts(flat: Facts) -> dict[str, str]:
    """Path in a checkpoint of this program -> path in the tree.

    A tree with "params" has parts already, as a TrainState or the variables of Flax have; "params"
    in "params" is one. Any other tree is all parameters.
    """
    heads = {path.split("/", 1)[0] for path in flat}
    if "params" not in heads:
        return {f"params/{path}": path for path in flat}
    parts = {path: path for path in flat}
    inner = {path.split("/")[1] for path in flat if path.startswith("params/")}
    if inner <= {"params", "batch_stats"} and "params" in inner:
        parts = {path.removeprefix("params/"): path for path in flat}
    return {
        path if path.split("/", 1)[0] in _PARTS else f"buffers/{path}": saved
        for path, saved in parts.items()
    }


def _flat(tree: Any) -> dict[str, Any]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
