"""The error of all commands that go back in a run."""

from __future__ import annotations

from clac_jax.errors import UserError


class ReplayError(UserError):
    """What a run has recorded does not suffice for what is asked of it."""
