"""Shared helpers of the `clac-jax` commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable

NAMED = (
    "RUN, RUN@best, RUN@best=2 (the second best), RUN@last, RUN@step=5000, RUN@epoch=49 or a "
    "checkpoint's folder"
)
"""The names of checkpoints, for the help of an argument."""


def commands(group: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    """A function that adds commands to a group.

    Returns:
        (name, function, text) -> the parser of a new command. `function` takes the parsed options
        and returns the exit code.
    """
    parsers = group.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        parser = parsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        parser.set_defaults(run=function)
        return parser

    return command
