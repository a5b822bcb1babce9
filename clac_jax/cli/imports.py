"""`clac-jax import`: imports models that other programs have trained."""

from __future__ import annotations

import argparse

from clac_jax.cli.command import commands, new_workdir
from clac_jax.errors import shown
from clac_jax.stores.copies import local_copy


def add(group: argparse.ArgumentParser) -> None:
    """Adds the `import` commands."""
    command = commands(group)
    lightning = command(
        "lightning",
        _import_lightning,
        "import a checkpoint of the PyTorch release as a run that can be resumed",
    )
    lightning.add_argument("file", metavar="FILE.ckpt")
    lightning.add_argument("--workdir", required=True, help="a new folder")
    lightning.add_argument(
        "--text-encoder",
        metavar="FOLDER_OR_ID",
        help="the language model the run began with, for its config.json and tokenizer (default: "
        "the one that the checkpoint names)",
    )
    huggingface = command(
        "huggingface",
        _import_huggingface,
        "say what is used of a language model, and the flags that train with it",
    )
    huggingface.add_argument("folder", metavar="FOLDER_OR_ID")


def _import_lightning(options: argparse.Namespace) -> int:
    from clac_jax.interop.lightning import import_lightning

    file = local_copy(options.file, "FILE.ckpt")
    with new_workdir(options.workdir, "--workdir") as workdir:
        report = shown(import_lightning(file, workdir, options.text_encoder))
    print(report)
    return 0


def _import_huggingface(options: argparse.Namespace) -> int:
    from clac_jax.interop.language_model import describe_language_model

    print(describe_language_model(options.folder))
    return 0
