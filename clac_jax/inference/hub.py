"""Published models on the Hugging Face Hub, or in its cache: `hf:owner/name`."""

from __future__ import annotations

import re
from pathlib import Path

from clac_jax.checkpoint.export import CONFIG_FILE, MODEL_FILE
from clac_jax.errors import one_line
from clac_jax.inference.errors import LoadError
from clac_jax.inference.published import CHECKSUMS, EVALUATION, TEXT_FOLDER, is_complete

PREFIX = "hf:"

_NAME = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_FILES = [CONFIG_FILE, MODEL_FILE, EVALUATION, CHECKSUMS, f"{TEXT_FOLDER}/*"]


def hub_folder(name: str) -> Path:
    """The local folder of a published model on the Hub, downloaded only if it is not in the cache.

    Args:
        name: "hf:owner/name" or, for a branch, tag or commit, "hf:owner/name@revision".

    Raises:
        LoadError: the name is malformed, or the model is neither in the cache nor on the Hub.
        PublishedError: it is there, and its list of files cannot be read.
    """
    found = _NAME.fullmatch(name.removeprefix(PREFIX))
    if not found:
        raise _malformed(name)
    from huggingface_hub import constants, snapshot_download  # takes half a second
    from huggingface_hub.errors import HFValidationError

    repo, revision = found[1], found[2]

    def fetch(local_files_only: bool) -> Path:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=_FILES,
                local_files_only=local_files_only,
            )
        )

    try:
        cached = fetch(local_files_only=True)
        if is_complete(cached):
            return cached
    except HFValidationError as error:
        raise _malformed(name) from error
    except (OSError, ValueError):
        pass  # not in the cache, but possibly on the Hub
    try:
        folder = fetch(local_files_only=False)
    except (OSError, ValueError) as error:
        reason = "HF_HUB_OFFLINE is set"
        if not constants.HF_HUB_OFFLINE:
            reason = one_line(str(error).strip().split("\n")[0], 120) or type(error).__name__
        raise LoadError(
            f"{name} is not in the local Hugging Face cache and cannot be downloaded ({reason}). "
            f"Check the name and the connection: `hf download {repo}` fills the cache."
        ) from error
    if not is_complete(folder):
        raise LoadError(
            f"{name} is not a model published by `clac-jax publish`: {folder} lacks {MODEL_FILE}, "
            f"{CONFIG_FILE} or a file that {CHECKSUMS} lists. Download it again if it should be "
            "one."
        )
    return folder


def _malformed(name: str) -> LoadError:
    return LoadError(
        f"{one_line(repr(name))} is not the name of a model on the Hugging Face Hub. Write "
        "hf:owner/name, or hf:owner/name@revision."
    )
