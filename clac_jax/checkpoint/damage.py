"""Errors about checkpoints that cannot be used."""

from __future__ import annotations

from typing import Any

from clac_jax.errors import UserError


class DamagedCheckpointError(UserError):
    """A file of a checkpoint differs from what was written."""

    def __init__(self, path: Any, what: str):
        super().__init__(
            f"{path} {what}, so its checkpoint cannot be trusted. Use another checkpoint of the "
            "run (`clac-jax ckpt verify` lists which are intact)."
        )
        self.path = path
        self.what = what


class UnreadableCheckpointError(UserError):
    """A checkpoint cannot be read at present, with no sign that it is damaged."""


class RemovedCheckpointError(UnreadableCheckpointError):
    """A checkpoint was removed while it was being read."""

    def __init__(self, folder: Any):
        super().__init__(
            f"{folder} was removed while it was read: a run that is under way keeps only some of "
            "its checkpoints. Try again, or name one that it keeps (`clac-jax ckpt ls` says why)."
        )
