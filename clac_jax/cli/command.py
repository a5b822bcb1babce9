"""Shared helpers of the `clac-jax` commands."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from clac_jax.checkpoint.remote import MANIFEST
from clac_jax.errors import UserError
from clac_jax.stores.outputs import output_folder
from clac_jax.stores.url import is_url

NAMED = (
    "RUN, RUN@best, RUN@best=2 (the second best), RUN@last, RUN@step=5000, RUN@epoch=49 or a "
    "checkpoint's folder; RUN may be a URL (gs://, s3://, az://)"
)
"""The names of checkpoints, for the help of an argument."""


@contextlib.contextmanager
def new_workdir(target: str, what: str) -> Iterator[Path]:
    """The local folder in which to write the only checkpoint of a new run; see `output_folder`.

    Args:
        target: path or URL of the workdir.
        what: name of the argument, for messages.

    Raises:
        UserError: the folder is not empty, or the URL is that of a run.
    """
    from clac_jax.checkpoint.fetched import RUN_FILES, fetch_run
    from clac_jax.checkpoint.layout import CHECKPOINTS
    from clac_jax.checkpoint.single import require_empty

    if is_url(target):
        there = fetch_run(target)
        # An upload that failed may have left these two, and is to be repeated.
        others = {*RUN_FILES, CHECKPOINTS} - {"config.json", "metrics.jsonl"}
        if any((there / name).exists() for name in others):
            raise UserError(f"{what}={target} already holds a run. Name another folder.")
    with output_folder(target, what, MANIFEST) as folder:
        require_empty(folder)
        yield folder


def commands(
    group: argparse.ArgumentParser, parser_class: type[argparse.ArgumentParser] | None = None
) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds commands to a group.

    Args:
        group: the parser of the group.
        parser_class: class of the commands' parsers; by default that of the group.

    Returns:
        (name, function, text) -> the parser of a new command. `function` takes the parsed options
        and returns the exit code.
    """
    kind = parser_class or type(group)
    parsers = group.add_subparsers(required=True, metavar="COMMAND", parser_class=kind)

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        parser = parsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.set_defaults(run=function)
        return parser

    return command
