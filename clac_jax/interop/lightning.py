"""A checkpoint of the PyTorch release as a run to resume here."""

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
from etils import epath

from clac_jax.checkpoint.layout import CHECKPOINTS, read_all
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.config import schema as config_lib
from clac_jax.config.check import validate
from clac_jax.config.encoders import fill_defaults
from clac_jax.crystals.graph import CrystalGraph
from clac_jax.errors import UserError, one_line
from clac_jax.files.atomic import write_atomically
from clac_jax.input_pipeline.batch import Batch, BatchShape, ExampleViews, TokenView, collate
from clac_jax.interop.inferred_config import inferred_config
from clac_jax.interop.lightning_file import (
    LightningFile,
    LightningImportError,
    as_number,
    read_lightning_file,
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
from clac_jax.models.torch_layout import SeenTensors
from clac_jax.text.sentences import Tokenizer
from clac_jax.training import optim
from clac_jax.training.progress import RunProgress
from clac_jax.training.state import create_train_state

# Registered buffers of the release's modules: in the state dict, not among the parameters.
_BUFFERS = (
    "running_mean", "running_var", "num_batches_tracked", "RBF.freqs", "rbf.centers",
    "position_ids", "token_type_ids",
)  # fmt: skip
# Parts of our optimizers' states -> PyTorch's, each of them an array for every parameter.
_KINDS = {"mu": "exp_avg", "nu": "exp_avg_sq", "trace": "momentum_buffer", "count": "step"}


@dataclass
class LightningRun:
    """A run of the release, read.

    Attributes:
        config: of the run here.
        arrays: slash path -> array, the whole state.
        progress: where it resumes.
        metrics: of its last validation, as far as the file has them.
        notes: what was assumed, one line each.
        unmapped: names of tensors and hyperparameters that have no counterpart here.
        missing: what the file lacks and what the run starts with instead, one line each.
    """

    config: ml_collections.ConfigDict
    arrays: dict[str, Any]
    progress: RunProgress
    metrics: dict[str, float] | None
    notes: list[str] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def read_lightning(path: str | Path, text_encoder: str | None = None) -> LightningRun:
    """Reads a checkpoint that the PyTorch release wrote.

    Args:
        path: of the `.ckpt`.
        text_encoder: folder or hub id of the language model that the run began with, for its
            config.json and its tokenizer; by default what the checkpoint names.

    Raises:
        TorchFileError: the file cannot be read, or holds more than plain data.
        LightningImportError: it is not such a checkpoint, or its tensors do not fit.
        ImportedConfigError: its hyperparameters ask for something that is not known here.
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
            f"{path} does not name the language model that its run began with. Name it with "
            "--text-encoder."
        )
    config = imported.config
    config.text_encoder.pretrained = folder
    use_text_encoder(imported, folder, text_kind(config.text_encoder).causal)
    use_data(imported)
    _widths(saved, config)
    imported.notes.append("dropout and the order of the data begin with the seed of the config")

    progress, notes = _progress(saved, config)
    imported.notes += notes
    validate(config)
    fill_defaults(config)  # so that the run keeps them, whatever a later version's are
    try:
        arrays, unmapped = _arrays(saved, imported, progress)
    except (KeyError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise LightningImportError(
            f"{path} does not hold the model that it describes: {one_line(error.args[0])}. If its "
            f"language model is not {folder!r}, name the right one with --text-encoder."
        ) from error
    unmapped += [
        f"hyperparameter {one_line(name)} = {one_line(repr(value))}"
        for name, value in imported.unmapped.items()
    ]
    missing = [f"{key}: {_STARTS_WITH[key]}" for key in saved.missing]
    metrics = _metrics(saved, config)
    return LightningRun(config, arrays, progress, metrics, imported.notes, unmapped, missing)


_STARTS_WITH = {
    "hyper_parameters": "what is assumed of the config is listed below",
    "epoch": "the run starts at epoch 0, step 0",
    "global_step": "the run starts at epoch 0, step 0",
    "loops": "its last epoch is taken for finished, with one batch for each step",
    "optimizer_states": "the moments of the optimizer start at zero, and its count of steps too",
    "lr_schedulers": "the learning rate follows from the step; a plateau schedule starts anew",
    "callbacks": "the run monitors the default metric, and has no best value yet",
}


def import_lightning(path: str | Path, workdir: Path, text_encoder: str | None = None) -> str:
    """Writes the run of a checkpoint of the release into a new workdir.

    Args:
        path: of the `.ckpt`.
        workdir: gets `checkpoints/<step>` and `config.json`.
        text_encoder: see `read_lightning`.

    Returns:
        What was taken over, what was assumed and what was not mapped, for a person to read.

    Raises:
        LightningImportError: the workdir holds a run already; and see `read_lightning`.
    """
    if read_all(epath.Path(workdir) / CHECKPOINTS)[0]:
        raise LightningImportError(f"{workdir} holds checkpoints already. Name another folder.")
    run = read_lightning(path, text_encoder)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in run.arrays.items()}
    checkpoints = Checkpoints(workdir, run.config, shapes)
    checkpoints.save(run.arrays, run.progress, run.metrics)
    checkpoints.close()
    write_atomically(workdir / "config.json", config_lib.to_json(run.config))
    return describe(run, workdir)


def describe(run: LightningRun, workdir: Path) -> str:
    """What was taken over, what was assumed, what was not mapped, and how to resume."""
    groups = {"params": 0, "batch_stats": 0, "opt_state": 0}
    for name in run.arrays:
        group = name.split("/")[0]
        groups[group] = groups.get(group, 0) + 1
    lines = [
        f"imported  {groups['params']} parameters, {groups['batch_stats']} running averages, "
        f"{groups['opt_state']} arrays of the optimizer",
        f"next      epoch {run.progress.epoch}, step {run.progress.step + 1}",
        *(f"missing   {line}" for line in run.missing),
        *(f"assumed   {note}" for note in run.notes),
        *(f"unmapped  {name}" for name in run.unmapped),
        f"resume    clac-jax train --config=saved:{workdir / 'config.json'} --workdir={workdir}",
    ]
    return "\n".join(lines)


def _widths(saved: LightningFile, config: Any) -> None:
    """The width of the projections, which the hyperparameters do not tell."""
    name = "loss.global_d.img_block.feature_shortcut.weight"
    tensor = saved.state_dict.get(name)
    if tensor is None or tensor.ndim != 2:
        raise LightningImportError(
            f"{saved.path} lacks the matrix {name}. Give a checkpoint of the whole model of the "
            "release."
        )
    config.projection_dim = int(tensor.shape[0])


def _arrays(
    saved: LightningFile, imported: ImportedConfig, progress: RunProgress
) -> tuple[dict[str, Any], list[str]]:
    """The state by slash path, and the names of tensors that have no place in it."""
    config = imported.config
    tokenizer = Tokenizer.from_folder(config.text_encoder.tokenizer)
    model = build_model(config, tokenizer.vocab_size)
    settings = text_settings(config, tokenizer.vocab_size)
    seen = SeenTensors(saved.state_dict)
    variables = {
        "params": model_params(seen, config, settings),
        "batch_stats": model_statistics(seen, config),
    }
    _check_shapes(abstract_variables(model, _example(config)), variables)
    tx = optim.make_optimizer(config, variables["params"], optax.constant_schedule(0.0))
    state = create_train_state(model.apply, variables, tx, config.seed)
    arrays = {name: np.asarray(leaf) for name, leaf in to_arrays(state).items()}
    arrays["step"] = np.asarray(progress.step, np.int32)
    arrays["learning_rate_scale"] = np.asarray(progress.learning_rate_scale, np.float32)

    moments = _moments(saved, imported.notes)
    by_kind = {
        ours: _flat(model_params(moments[theirs], config, settings))
        for ours, theirs in _KINDS.items()
        if moments and any(f"/{ours}/" in name for name in arrays)
    }
    counts = [int(steps.max()) for steps in moments.get("step", {}).values()]
    for name, leaf in arrays.items():
        for kind, leaves in by_kind.items():
            before, _, parameter = name.partition(f"/{kind}/")
            if parameter and before.startswith("opt_state/"):
                # A count is one number for all elements of a parameter.
                value = leaves[parameter].max() if kind == "count" else leaves[parameter]
                arrays[name] = np.asarray(value, leaf.dtype)
        if name.endswith("/count"):
            # That of the moments belongs to them: it corrects their bias. The others are of steps.
            of_moments = name.endswith(("/adam/count", "/lion/count"))
            steps = max(counts, default=0) if of_moments else progress.step
            arrays[name] = np.asarray(steps, leaf.dtype)
    unmapped = [f"tensor {one_line(name)}" for name in seen.unread() if not name.endswith(_BUFFERS)]
    return arrays, unmapped


def _moments(saved: LightningFile, notes: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """The optimizer's arrays by kind and by the name of their parameter; {} without an optimizer.

    The optimizer numbers the parameters in the order of the state dict, which also holds buffers,
    and tied weights twice. Its "step" is shown as an array of the shape of the parameter.
    """
    if len(saved.optimizers) != 1:
        if "optimizer_states" not in saved.missing:
            notes.append(
                f"the file has {len(saved.optimizers)} optimizer states instead of 1; moments and "
                "their count of steps start at zero"
            )
        return {}
    optimizer = saved.optimizers[0]
    parameters: dict[str, np.ndarray] = {}
    tied: set[int] = set()
    for name, tensor in saved.state_dict.items():
        if not name.endswith(_BUFFERS) and id(tensor) not in tied:
            parameters[name] = tensor
            tied.add(id(tensor))
    if sorted(optimizer.numbers) != list(range(len(parameters))):
        raise ValueError(
            f"its optimizer has {len(optimizer.numbers)} parameters and its model {len(parameters)}"
        )
    moments: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in _KINDS.values()}
    for number, (name, tensor) in enumerate(parameters.items()):
        of_parameter = optimizer.state.get(number, {})
        for kind, of_kind in moments.items():
            value = of_parameter.get(kind)
            if kind == "step":
                value = as_number(0 if value is None else value)
                if value is None or not 0 <= value < 1 << 31:
                    raise ValueError(f"the optimizer's step of {name} is not a count")
                value = np.broadcast_to(np.float64(value), tensor.shape)
            elif value is None:  # a view of one zero: it costs nothing where nobody needs it
                value = np.broadcast_to(np.zeros((), tensor.dtype), tensor.shape)
            if not isinstance(value, np.ndarray) or value.shape != tensor.shape:
                raise ValueError(f"the optimizer's {kind} of {name} has another shape")
            of_kind[name] = value
    return moments


def _progress(saved: LightningFile, config: Any) -> tuple[RunProgress, list[str]]:
    """Where the run resumes; its epochs count from 0 in both programs."""
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
        notes.append(f"the run stopped inside epoch {epoch}, which starts over here")
    else:
        epoch += 1
    done = step if saved.batches is None else saved.batches
    if step and done > step and done % step == 0:
        config.accumulate_steps = done // step
        notes.append(f"accumulate_steps {done // step}: {done} batches made {step} steps")
    return RunProgress(step=step, epoch=epoch, examples_seen=done * config.batch_size), notes


def _metrics(saved: LightningFile, config: Any) -> dict[str, float] | None:
    """The monitored value of the last validation, if the file has it and the data are the same."""
    if config.dataset.path is None:
        return None
    for monitor, _, score in saved.monitors:
        if score is not None and monitor == config.checkpoint.monitor:
            return {monitor: float(score)}
    return None


def _example(config: ml_collections.ConfigDict) -> Batch:
    """The smallest batch that has everything the model of a config reads."""
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
            raise ValueError(f"{name} is {'missing' if name in wanted else 'too much'}")
        if given[name].shape != wanted[name].shape:
            raise ValueError(
                f"{name} has shape {given[name].shape} instead of {wanted[name].shape}"
            )


def _flat(tree: Any) -> dict[str, Any]:
    leaves: Iterable[Any] = jax.tree.leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
