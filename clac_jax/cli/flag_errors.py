"""What is wrong with the flags of a run or with its config file, in one line."""

from __future__ import annotations

import traceback

from absl import flags

from clac_jax.config import renamed
from clac_jax.errors import UserError

_TRACE = "Traceback (most recent call last)"  # in what the flags say of a failing config file


def describe(error: Exception, config: str = "--config") -> str:
    """The message for an error of the flags' parser or of the config file that it runs.

    Args:
        error: what was raised; a config file is code and may raise anything.
        config: the flag that names the file, as it was given.
    """
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if isinstance(error, OSError):  # the parser's own, of a file that it cannot load
        cause = next((c for c in causes if isinstance(c, OSError) and c.strerror), None)
        reason = cause.strerror if cause else "No such file or directory"
        return f"{config} cannot be loaded: {reason}. Give a file from configs/."
    root: BaseException = error
    if _TRACE in str(error):  # the parser's, around what the file has raised
        root = next((cause for cause in causes if _TRACE not in str(cause)), error)
    if isinstance(root, flags.Error | UserError | AttributeError | KeyError):
        text = _unquoted(str(root))
        if isinstance(root, AttributeError | KeyError) and (new_name := renamed.hint(text)):
            return new_name
        return text if " " in text else f"There is no config key {text!r}."
    what = f"{type(root).__name__}: {_unquoted(str(root))}"
    return f"{config} cannot be loaded: {_where(root)}{what}"


def _unquoted(text: str) -> str:
    text = " ".join(text.replace("\\n", " ").split())
    if text[:1] in "'\"" and text[:1] == text[-1:]:  # the repr that a KeyError prints
        text = text[1:-1].replace("\\'", "'")
    return text[1:-1] if text[:1] == text[-1:] == "'" else text


def _where(error: BaseException) -> str:
    """The line of the config file that an error comes from."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(".py")
        and "site-packages" not in frame.filename
        and not frame.filename.endswith("main.py")
    ]
    return f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
