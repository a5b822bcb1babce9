"""The error of all commands that go back in a run."""

from __future__ import annotations

from clac_jax.errors import UserError


class ReplayError(UserError):
    """The records of a run do not suffice for the request."""
