"""The checkpoints of one run, in Orbax's own layout: one folder a step."""

from __future__ import annotations

import importlib.metadata
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_collections
import orbax.checkpoint as ocp

import clac_jax
from clac_jax import config as config_lib
from clac_jax.checkpoint.retention import Retention
from clac_jax.checkpoint.tree import Tree
from clac_jax.errors import UserError
from clac_jax.progress import RunProgress

SAVE = "save to"
RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class CheckpointError(UserError):
    """A checkpoint cannot be written or read."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint in memory.

    Attributes:
        state: nested dicts of NumPy arrays, see `checkpoint.tree`.
        progress: where the run was.
        config: the nested config of the run that wrote it.
        versions: package name -> version at that time.
    """

    state: Tree
    progress: RunProgress
    config: dict[str, Any]
    versions: dict[str, str]


def package_versions() -> dict[str, str]:
    """Package name -> version of everything that shapes a run's numbers."""
    installed = {name: importlib.metadata.version(name) for name in RECORDED_PACKAGES}
    return {"clac-jax": clac_jax.__version__, **installed}


class Checkpoints:
    """Saves and restores the checkpoints in `workdir/checkpoints` through Orbax.

    A save is atomic: Orbax writes into a temporary folder that it renames when every file is there.
    What a killed save left behind is removed here, at the next start.
    """

    def __init__(self, workdir: Path, config: ml_collections.ConfigDict):
        """Opens (or makes) the folder.

        Args:
            workdir: of the run.
            config: of the run; `config.checkpoint` says what is kept.
        """
        options = config.checkpoint
        self.directory = workdir.resolve() / "checkpoints"
        self._config = json.loads(config_lib.to_json(config))
        self._retention = Retention(options.save_top_k, options.monitor, options.mode)
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._retention,
                enable_async_checkpointing=options.async_save,
                cleanup_tmp_directories=True,
            ),
            item_names=("state", "run"),
        )

    def latest_step(self) -> int | None:
        """The newest step that is whole, or None in a fresh run."""
        return self._manager.latest_step()

    def has(self, step: int | None) -> bool:
        """Whether the checkpoint of this step is kept."""
        self.wait()
        return step in self._manager.all_steps()

    def save(self, state: Tree, progress: RunProgress, metrics: dict[str, float] | None) -> None:
        """Saves under `progress.step`; returns when the arrays are safe from later changes.

        Args:
            state: nested dicts of NumPy arrays.
            progress: where the run is.
            metrics: of the validation at this step, or None between validations.

        Raises:
            CheckpointError: this save, or the one before it in the background, failed.
        """
        run = {
            "progress": progress.to_json(),
            "config": self._config,
            "versions": package_versions(),
        }
        self._guard(
            SAVE,
            lambda: self._manager.save(
                progress.step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state), run=ocp.args.JsonSave(run)
                ),
                metrics=metrics,
                force=True,
            ),
        )

    def restore(self, step: int) -> Checkpoint:
        """Reads one checkpoint.

        Raises:
            CheckpointError: its files are missing or cannot be read.
        """
        self.wait()
        restored = self._guard(
            f"restore step {step} of",
            lambda: self._manager.restore(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardRestore(), run=ocp.args.JsonRestore()
                ),
            ),
        )
        run = restored["run"]
        return Checkpoint(
            state=restored["state"],
            progress=RunProgress.from_json(run["progress"]),
            config=run["config"],
            versions=run["versions"],
        )

    def wait(self) -> None:
        """Blocks until the save in the background has been committed.

        Raises:
            CheckpointError: it failed.
        """
        self._guard(SAVE, self._manager.wait_until_finished)

    def close(self) -> None:
        """Waits for the background and frees Orbax's threads."""
        self._guard(SAVE, self._manager.close)

    def _guard(self, action: str, call: Any) -> Any:
        try:
            return call()
        except (OSError, ValueError, KeyError) as error:
            advice = (
                "Check free disk space and permissions; the older checkpoints are untouched."
                if action == SAVE
                else "Its files are damaged: move its folder away, and the run goes on from the "
                "checkpoint before it."
            )
            raise CheckpointError(
                f"Cannot {action} the checkpoints in {self.directory}: {error}. {advice}"
            ) from error
