"""Import of a checkpoint of the PyTorch release as a run that can be resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.single import require_empty
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.config import schema as config_lib
from clac_jax.config.check import validate
from clac_jax.config.encoders import fill_defaults
from clac_jax.crystals.graph import CrystalGraph
from clac_jax.errors import UserError, one_line
from clac_jax.files.atomic import write_atomically
from clac_jax.input_pipeline.batch import Batch, BatchShape, collate
from clac_jax.input_pipeline.example import ExampleViews, TokenView
from clac_jax.interop.inferred_config import inferred_config
from clac_jax.interop.lightning_file import (
    LightningFile,
    LightningImportError,
    as_number,
    read_lightning_file,
)
from clac_jax.interop.lightning_optimizer import (
    BUFFERS,
    KINDS,
    read_moments,
    unread_state,
    use_groups,
)
from clac_jax.interop.reference_config import (
    ImportedConfig,
    imported_config,
    use_data,
    use_text_encoder,
)
from clac_jax.interop.reference_weights import model_params, model_statistics
from clac_jax.models import abstract_variables, build_model
from clac_jax.models.encoders import text_kind, text_settings
from clac_jax.models.torch_layout import SeenTensors, Tensors
from clac_jax.text.sentences import Tokenizer
from clac_jax.training import optim
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import create_train_state


@dataclass
class LightningRun:
    """A run of the release, converted.

    Attributes:
        config: config for resuming the run.
        arrays: path with slashes -> array, the complete training state.
        progress: position at which the run resumes.
        metrics: metrics of its last validation that are in the file; None if there are none.
        notes: assumptions, one line each.
        unmapped: tensors and hyperparameters without a counterpart in this project.
        missing: keys that the file lacks, with the values used instead, one line each.
    """

    config: ml_collections.ConfigDict
    arrays: dict[str, Any]
    progress: RunProgress
    metrics: dict[str, float] | None
    notes: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_lightning(path: str | Path, text_encoder: str | None = None) -> LightningRun:
    """Reads a checkpoint written by the PyTorch release.

    Args:
        path: path of the `.ckpt` file.
        text_encoder: folder or Hub id of the pretrained language model of the run, for its
            config.json and tokenizer; by default the one named in the checkpoint.

    Raises:
        TorchFileError: the file cannot be read, or contains more than plain data.
        LightningImportError: it is not such a checkpoint, or its tensors do not match.
        ImportedConfigError: its hyperparameters are not supported.
        PretrainedError, TokenizerError: the language model cannot be used.
    """
    saved = read_lightning_file(path)
    if saved.hyper_parameters is None:
        imported = inferred_config(saved.state_dict)
    else:
        imported = imported_config(saved.hyper_parameters)
    folder = text_encoder or imported.unmapped.get("datamodule.tokenizer_model")
    if not isinstance(folder, str) or not folder:
        raise LightningImportError(
            f"{path} does not name the pretrained language model of its run. Set it with "
            "--text-encoder."
        )
    config = imported.config
    config.text_encoder.pretrained = folder
    use_text_encoder(imported, folder, text_kind(config.text_encoder).causal)
    use_data(imported)
    _set_projection_dim(saved, config)
    imported.notes.append("dropout and data order start from the seed of the config")

    if saved.prefix:
        imported.notes.append(f"the names of the tensors are read without {saved.prefix!r}")
    imported.notes += use_groups(saved, config)
    progress, notes = _progress(saved, config)
    imported.notes += notes
    validate(config)
    fill_defaults(config)  # so that the run keeps them, whatever a later version's are
    try:
        arrays, unmapped = _arrays(saved, imported, progress)
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = one_line(error.args[0])
        advice = "Use a checkpoint of the complete model, written by the training of the release."
        if "text_encoder" in reason:
            advice = (
                f"If its language model is not {folder!r}, set the correct one with --text-encoder."
            )
        raise LightningImportError(
            f"{path} does not match the model it describes: {reason}. {advice}"
        ) from error
    unmapped += unread_state(saved) + [
        f"hyperparameter {one_line(name)} = {one_line(repr(value))}"
        for name, value in imported.unmapped.items()
    ]
    missing = [f"{key}: {_STARTS_WITH[key]}" for key in saved.missing]
    metrics = _metrics(saved, config)
    return LightningRun(config, arrays, progress, metrics, imported.notes, unmapped, missing)


_STARTS_WITH = {
    "hyper_parameters": "the assumed config is listed below",
    "epoch": "the run starts at epoch 0, step 0",
    "global_step": "the run starts at epoch 0, step 0",
    "loops": "the last epoch is assumed to be complete, with one batch per step",
    "optimizer_states": "the moments and the step count of the optimizer start at zero",
    "lr_schedulers": "the learning rate follows from the step; a plateau schedule is reset",
    "callbacks": "the run monitors the default metric and has no best value yet",
}


def import_lightning(path: str | Path, workdir: Path, text_encoder: str | None = None) -> str:
    """Converts a checkpoint of the release to a run in a new workdir.

    Args:
        path: path of the `.ckpt` file.
        workdir: workdir of the new run; receives `checkpoints/<step>`, `config.json`, and a
            `metrics.jsonl` without rows, as those of the release are not in the file.
        text_encoder: folder or Hub id of the language model; see `read_lightning`.

    Returns:
        A report for the user; see `describe`.

    Raises:
        NotEmptyError: the workdir is not empty; and see `read_lightning`.
    """
    require_empty(workdir)
    run = read_lightning(path, text_encoder)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in run.arrays.items()}
    checkpoints = Checkpoints(workdir, run.config, shapes)
    checkpoints.save(run.arrays, run.progress, run.metrics)
    checkpoints.close()
    write_atomically(workdir / "config.json", config_lib.to_json(run.config))
    write_atomically(workdir / "metrics.jsonl", "")
    return describe(run, workdir)


def describe(run: LightningRun, workdir: Path) -> str:
    """A report: what was imported, missing, assumed and unmapped, and how to resume."""
    groups = {"params": 0, "batch_stats": 0, "opt_state": 0}
    for name in run.arrays:
        group = name.split("/")[0]
        groups[group] = groups.get(group, 0) + 1
    lines = [
        f"imported  {groups['params']} parameters, {groups['batch_stats']} running averages, "
        f"{groups['opt_state']} optimizer arrays",
        f"next      epoch {run.progress.epoch}, step {run.progress.step + 1}",
        *(f"missing   {line}" for line in run.missing),
        *(f"assumed   {note}" for note in run.notes),
        *(f"unmapped  {name}" for name in run.unmapped),
        f"resume    clac-jax train --config=saved:{workdir / 'config.json'} --workdir={workdir}",
    ]
    return "\n".join(lines)


def _set_projection_dim(saved: LightningFile, config: Any) -> None:
    """Sets the width of the projections, which is not among the hyperparameters."""
    name = "loss.global_d.img_block.feature_shortcut.weight"
    tensor = saved.state_dict.get(name)
    if tensor is None or tensor.ndim != 2:
        raise LightningImportError(
            f"{saved.path} lacks the matrix {name}. Use a checkpoint of the complete model."
        )
    config.projection_dim = int(tensor.shape[0])


def _arrays(
    saved: LightningFile, imported: ImportedConfig, progress: RunProgress
) -> tuple[dict[str, Any], list[str]]:
    """The training state by path with slashes, and the unmapped tensors."""
    config = imported.config
    tokenizer = Tokenizer.from_folder(config.text_encoder.tokenizer)
    model = build_model(config, tokenizer.vocab_size)
    settings = text_settings(config, tokenizer.vocab_size)
    seen = SeenTensors(saved.state_dict)
    variables = {
        "params": model_params(seen, config, settings),
        "batch_stats": model_statistics(seen, config),
    }
    # As a run has them, whatever the precision of the file.
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    _check_shapes(abstract_variables(model, _example(config)), variables)
    tx = optim.make_optimizer(config, variables["params"], optax.constant_schedule(0.0))
    state = create_train_state(model.apply, variables, tx, config.seed)
    arrays = {name: np.asarray(leaf) for name, leaf in to_arrays(state).items()}
    arrays["step"] = np.asarray(progress.step, np.int32)
    arrays["learning_rate_scale"] = np.asarray(progress.learning_rate_scale, np.float32)

    moments = read_moments(saved, imported.notes)
    by_kind = {
        ours: _flat(_moment_params(theirs, moments[theirs], config, settings))
        for ours, theirs in KINDS.items()
        if moments and any(f"/{ours}/" in name for name in arrays)
    }
    counts = [int(steps.max()) for steps in moments.get("step", {}).values()]
    for name, leaf in arrays.items():
        for kind, leaves in by_kind.items():
            before, _, parameter = name.partition(f"/{kind}/")
            if parameter and before.startswith("opt_state/"):
                # The count is the same for all elements of a parameter.
                value = leaves[parameter].max() if kind == "count" else leaves[parameter]
                arrays[name] = np.asarray(value, leaf.dtype)
        if name.endswith("/count"):
            # The count of the moments corrects their bias; the other counts are of steps.
            of_moments = name.endswith(("/adam/count", "/lion/count"))
            steps = max(counts, default=0) if of_moments else progress.step
            arrays[name] = np.asarray(steps, leaf.dtype)
    unmapped = [f"tensor {one_line(name)}" for name in seen.unread() if not name.endswith(BUFFERS)]
    return arrays, unmapped


def _moment_params(kind: str, moments: Tensors, config: Any, settings: Any) -> dict[str, Any]:
    """`model_params` of one kind of the optimizer's state, which errors name."""
    try:
        return model_params(moments, config, settings)
    except (KeyError, ValueError) as error:
        raise ValueError(f"the optimizer's {kind}: {error.args[0]}") from error


def _progress(saved: LightningFile, config: Any) -> tuple[RunProgress, list[str]]:
    """The position at which the run resumes. Both programs count epochs from 0."""
    if saved.epoch is None or saved.global_step is None:
        progress = RunProgress()
        notes: list[str] = []
    else:
        progress, notes = _position(saved, saved.epoch, saved.global_step, config)
    for monitor, mode, _ in saved.monitors:
        if monitor in config_lib.MONITORS:
            config.checkpoint.monitor, config.checkpoint.mode = monitor, mode
    rate = saved.optimizers[0].learning_rate if saved.optimizers else None
    if config.schedule == "plateau" and rate and config.learning_rate > 0:
        progress = dataclasses.replace(
            progress,
            learning_rate_scale=rate / config.learning_rate,
            plateau_best=as_number(saved.schedule.get("best")),
            plateau_validations=int(as_number(saved.schedule.get("num_bad_epochs")) or 0),
        )
    return progress, notes


def _position(
    saved: LightningFile, epoch: int, step: int, config: Any
) -> tuple[RunProgress, list[str]]:
    notes = []
    if saved.stopped_inside_epoch:
        notes.append(f"the run stopped during epoch {epoch}, which is repeated")
    else:
        epoch += 1
    done = step if saved.batches is None else saved.batches
    if step and done > step and done % step == 0:
        config.accumulate_steps = done // step
        notes.append(f"accumulate_steps is {done // step}: {done} batches for {step} steps")
    return RunProgress(step=step, epoch=epoch, examples_seen=done * config.batch_size), notes


def _metrics(saved: LightningFile, config: Any) -> dict[str, float] | None:
    """The monitored metric of the last validation, if known and if the data are the same."""
    if config.dataset.path is None:
        return None
    for monitor, _, score in saved.monitors:
        if score is not None and monitor == config.checkpoint.monitor:
            return {monitor: float(score)}
    return None


def _example(config: ml_collections.ConfigDict) -> Batch:
    """The smallest batch with all inputs of the model."""
    graph = CrystalGraph(
        atomic_numbers=np.array([1], np.int32),
        senders=np.array([0], np.int32),
        receivers=np.array([0], np.int32),
        edge_vectors=np.ones((1, 3), np.float32),
        lattice=np.eye(3, dtype=np.float32),
    )
    ids = np.zeros(2, np.int32)
    tokens = TokenView(ids, ids if config.lm_weight > 0 else None)
    views = 1 + config.use_visual_intramodal_loss, 1 + config.use_textual_intramodal_loss
    shape = BatchShape(
        num_examples=1,
        graph_views=views[0],
        text_views=views[1],
        node_tiles=((1, views[0]),),
        num_edges=views[0],
        token_tiles=((2, views[1]),),
    )
    return collate([ExampleViews(0, (graph,) * views[0], (tokens,) * views[1])], shape)


def _check_shapes(expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    wanted, given = _flat(expected), _flat(found)
    for name in sorted(wanted.keys() | given.keys()):
        if name not in given or name not in wanted:
            raise ValueError(f"{name} is {'missing' if name in wanted else 'unexpected'}")
        if given[name].shape != wanted[name].shape:
            raise ValueError(
                f"{name} has shape {given[name].shape} instead of {wanted[name].shape}"
            )


def _flat(tree: Any) -> dict[str, Any]:
    leaves: Iterable[Any] = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
