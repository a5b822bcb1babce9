"""A Python shell with a step in names."""

from __future__ import annotations

import code
import importlib
import importlib.util
import signal
from typing import Any

import jax
import numpy as np

from clac_jax.input_pipeline.batch import Batch
from clac_jax.replay.examination import Examination
from clac_jax.replay.replayer import Replayer

NAMES = {
    "run": "what the run has recorded: its starts, steps and checkpoints",
    "replay": "moves through the steps: replay.go_to(step), replay.do()",
    "before": "slash path -> array of the state before the step",
    "state": "slash path -> array of the state after it",
    "batch": "the batch, with leading axes (devices, accumulation)",
    "examples": "its examples: name, formula, batch, slot, loss, terms, crystals, texts",
    "gradients": "slash path -> gradient of a parameter",
    "similarity": "(batches, texts, crystals) scores by slot; None if nothing is contrasted",
    "setting": "config, data, model and optimizer",
}
"""Name in the shell -> what it is."""


def names_of(
    replayer: Replayer, batch: Batch, before: dict[str, np.ndarray], examination: Examination
) -> dict[str, Any]:
    """The values of `NAMES`, and the libraries that one needs.

    Args:
        replayer: at the position after the step.
        batch: the batch of the step.
        before: the state before it.
        examination: what the step did.
    """
    values = {
        "run": replayer.history,
        "replay": replayer,
        "before": before,
        "state": replayer.arrays(),
        "batch": batch,
        "examples": examination.examples,
        "gradients": examination.gradients,
        "similarity": examination.similarity,
        "setting": replayer.setting,
    }
    return {**values, "np": np, "jax": jax}


def open_shell(names: dict[str, Any]) -> None:
    """Opens IPython if it is installed, otherwise Python's own shell; returns when it is left.

    Ctrl-C interrupts what is typed there, and not the program.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        _open(names)
    finally:
        signal.signal(signal.SIGINT, before)


def _open(names: dict[str, Any]) -> None:
    width = max(map(len, NAMES))
    banner = "\n".join(f"  {name:<{width}}  {text}" for name, text in NAMES.items())
    if importlib.util.find_spec("IPython") is not None:
        print(banner)
        ipython = importlib.import_module("IPython")
        ipython.start_ipython(argv=["--no-banner"], user_ns=names)
        return
    code.interact(banner=banner, local=names, exitmsg="")
