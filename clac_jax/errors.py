"""The one base class of errors that a user, not a developer, has to act on."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave (config, file, data, disk) cannot be used.

    The message says in one sentence what is wrong with which file, row or key, and in one more what
    to do. `main.py` prints it without a traceback and exits with its `exit_code`.
    """

    exit_code = 2


EXIT_USER_ERROR = UserError.exit_code
