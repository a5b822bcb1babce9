"""The ends of a pass over some steps: going back, or stopping the run."""

from __future__ import annotations

from clac_jax.errors import EXIT_FAULTY, UserError


class TrainingDivergedError(UserError):
    """A loss, gradient or measure is not finite, and the run cannot be healed."""

    prevents_saving = True


class FaultyMachineError(UserError):
    """A step had different results: a device, its memory or its host is broken."""

    exit_code = EXIT_FAULTY
    prevents_saving = True


class GoBack(Exception):
    """The run goes back to its newest checkpoint; raised in all processes at the same step."""
