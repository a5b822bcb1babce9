"""One-line messages for errors in the flags of a run or in its config file."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

from absl import flags

from clac_jax.config import renamed
from clac_jax.config.shipped import config_folder, shipped_names
from clac_jax.errors import UserError

_TRACE = "Traceback (most recent call last)"  # in the parser's message on a failing config file
_UNKNOWN_KEY = re.compile(r"""'?([\w.]+)'?(?: Did you mean "([^"]+)" instead of .*)?""")


def describe(error: Exception, config: str = "--config") -> str:
    """The message for an error from the flag parser or from the config file that it runs.

    Args:
        error: the exception; a config file is code and may raise any type.
        config: the flag that names the file, as given by the user.
    """
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if isinstance(error, OSError):  # raised by the parser for an unreadable file
        cause = next((c for c in causes if isinstance(c, OSError) and c.strerror), None)
        reason = cause.strerror if cause else "No such file or directory"
        return (
            f"{config} cannot be loaded: {reason}. Give the path of a config file, or the name of "
            f"one of clac-jax's own: {', '.join(shipped_names())}."
        )
    root: BaseException = error
    if _TRACE in str(error):  # the parser's error wraps that of the file
        root = next((cause for cause in causes if _TRACE not in str(cause)), error)
    if isinstance(root, flags.Error | UserError | AttributeError | KeyError):
        text = _unquoted(str(root))
        if isinstance(root, AttributeError | KeyError) and (new_name := renamed.hint(text)):
            return new_name
        return _unknown_key(text) or text
    what = f"{type(root).__name__}: {_unquoted(str(root))}"
    return f"{config} cannot be loaded: {_where(root)}{what}"


def _unknown_key(text: str) -> str:
    """The message for an error of `ConfigDict` about a missing key; "" for any other text."""
    from clac_jax.config.check import unknown_key  # which imports most of the package

    found = _UNKNOWN_KEY.fullmatch(text)
    return unknown_key(found[1], found[2] or "") if found else ""


def _unquoted(text: str) -> str:
    text = " ".join(text.replace("\\n", " ").split())
    if text[:1] in "'\"" and text[:1] == text[-1:]:  # a KeyError prints a repr
        text = text[1:-1].replace("\\'", "'")
    return text[1:-1] if text[:1] == text[-1:] == "'" else text


def _where(error: BaseException) -> str:
    """The location in the config file at which an error was raised."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py") and _is_config_file(Path(frame.filename).resolve())
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""


def _is_config_file(file: Path) -> bool:
    """Whether a file belongs neither to a library nor to this package, or is a shipped config."""
    if file.parent == config_folder():
        return True
    ours = file.is_relative_to(Path(__file__).resolve().parents[1])
    return not ours and file.name != "main.py" and "site-packages" not in file.parts
