"""Parameters of a projection block from a parity fixture."""

from __future__ import annotations

from helpers.parity_fixtures import (
    linear,
    norm,
)


def params_of(section, prefix=""):
    return {
        "hidden": linear(section, f"{prefix}feature_nonlinear.0"),
        "norm": norm(section, f"{prefix}feature_nonlinear.1"),
        "out": linear(section, f"{prefix}feature_nonlinear.3"),
        "shortcut": linear(section, f"{prefix}feature_shortcut"),
        "out_norm": norm(section, f"{prefix}feature_block_ln"),
    }
