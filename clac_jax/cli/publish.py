"""`clac-jax publish`: writes a model as a folder to keep, share or put on a hub."""

from __future__ import annotations

import argparse

from clac_jax.cli.command import NAMED


def add(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `publish`."""
    parser.description = (
        "Writes a checkpoint's model as a folder that loads anywhere: config.json, "
        "model.safetensors, the tokenizer, eval.json, SHA256SUMS and a model card (README.md). "
        "`clac_jax.load(FOLDER)` gives the same numbers bit for bit. To put it on the Hugging Face "
        "Hub: hf upload OWNER/NAME FOLDER."
    )
    parser.add_argument("checkpoint", help=NAMED)
    parser.add_argument(
        "folder", metavar="FOLDER", help="a folder, or the URL of one, that does not exist yet"
    )
    add_card_flags(parser)
    parser.set_defaults(run=run)


def add_card_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what the card says beyond the run's own facts."""
    parser.add_argument("--name", help="name of the model in its card (default: FOLDER's)")
    parser.add_argument(
        "--license",
        help="its licence in the card, as the Hub abbreviates it, such as cc-by-4.0 (default: that "
        "of the training data if it comes with this package, otherwise unknown)",
    )


def run(options: argparse.Namespace) -> int:
    """Publishes, and prints the folder."""
    from clac_jax.inference.publish import publish

    merge = getattr(options, "merge", False)  # a flag of `ckpt export`
    print(publish(options.checkpoint, options.folder, options.name, options.license, merge))
    return 0
