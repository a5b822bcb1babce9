"""The error of proofs and their signatures."""

from __future__ import annotations

from clac_jax.errors import UserError


class ProofError(UserError):
    """A run cannot be examined or signed."""
