"""Hooks of the documentation site: pages that are generated or kept elsewhere."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MARKER = "<!-- the commands -->"
INCLUDED = re.compile(r"<!-- include (\S+) -->")
COLUMNS = "88"
"""Width of the help texts, in characters."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces placeholders of a page by a file of the repository's root or the help texts."""
    if found := INCLUDED.fullmatch(markdown.strip()):
        text = (ROOT / found[1]).read_text(encoding="utf-8")
        return text.replace("](docs/", "](")  # links as they are seen from docs/
    return markdown.replace(MARKER, commands()) if MARKER in markdown else markdown


def commands() -> str:
    """A heading and the help text for each command of `clac-jax`, as Markdown."""
    os.environ["COLUMNS"] = COLUMNS
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    cli = importlib.import_module("clac_jax.cli.main")
    parts = [_section("clac-jax", cli._parser("").format_help(), 2)]
    parts.append(_section("clac-jax train", _train_help(), 2))
    for name in cli.MODULES:
        (group,) = [parser for key, parser in _commands(cli._parser(name)) if key == name]
        if not (below := _commands(group)):  # one command, not a group of them
            parts.append(_section(group.prog, group.format_help(), 2))
            continue
        parts.append(f"## clac-jax {name}\n\n{group.description}\n")
        parts += [_section(p.prog, p.format_help(), 3) for _, p in below]
    return "\n".join(parts)


def _commands(parser: argparse.ArgumentParser) -> list[tuple[str, argparse.ArgumentParser]]:
    """The parsers below a parser, with their names."""
    return [
        item
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for item in action.choices.items()
    ]


def _train_help() -> str:
    """`train` has the flags of absl and of the config, and writes its help itself."""
    command = [sys.executable, "-m", "clac_jax", "train", "--help"]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _section(title: str, text: str, level: int) -> str:
    return f"{'#' * level} {title}\n\n```text\n{text.rstrip()}\n```\n"
