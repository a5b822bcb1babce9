"""The training run, top to bottom: data, model, state, epochs of steps, checkpoints, report."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np

from clac_jax import config as config_lib
from clac_jax import optim, parallel
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.tree import from_tree, to_tree
from clac_jax.data import RunData
from clac_jax.errors import UserError
from clac_jax.evaluate import Evaluation, evaluate
from clac_jax.models import build_model, init_variables
from clac_jax.progress import RunProgress
from clac_jax.report import write_report
from clac_jax.run_log import ProgressLine, RunLog, WorkdirError, read_rows
from clac_jax.step import make_eval_step, make_train_step
from clac_jax.summary import describe_run
from clac_jax.train_state import TrainState, create_train_state

DEBUG_EXAMPLES = 64
# Every train row has all terms; one whose contrast is switched off is 0.
NO_LOSS_TERMS = {"visual_loss": 0.0, "textual_loss": 0.0}


class TrainingDivergedError(UserError):
    """The loss or the gradient is no longer a number."""


def train(config: ml_collections.ConfigDict, workdir: str | Path) -> dict[str, float]:
    """Trains from the config, in the workdir, going on from its newest checkpoint if it has one.

    Args:
        config: see `clac_jax.config.default_config`.
        workdir: folder of the run; made if it is not there.

    Returns:
        The test metrics.

    Raises:
        UserError: the config, the data, the workdir or the numbers cannot be used.
    """
    config_lib.validate(config)
    config = config.copy_and_resolve_references()
    if config.debug:
        config.max_epochs = 1
        config.dataset.max_examples = config.dataset.max_examples or DEBUG_EXAMPLES
    workdir = _open_workdir(workdir)
    _use_compilation_cache(config)

    # Crystals and texts -> batches.
    data = RunData(config)
    steps_per_epoch = data.steps_per_epoch
    total_steps = steps_per_epoch * config.max_epochs

    # Model, optimizer, state.
    model = build_model(config, data.vocab_size)
    variables = init_variables(model, config, data.example_batch())
    schedule = optim.make_schedule(config, total_steps)
    tx = optim.make_optimizer(config, variables["params"], schedule)
    trainable = optim.trainable_mask(variables["params"], config.frozen)
    host_state = create_train_state(model.apply, variables, tx, config.seed)

    # Go on from the newest checkpoint.
    checkpoints = Checkpoints(workdir, config)
    progress, changes = RunProgress(), []
    if (latest := checkpoints.latest_step()) is not None:
        checkpoint = checkpoints.restore(latest)
        host_state = from_tree(host_state, checkpoint.state)
        progress = checkpoint.progress
        changes = config_lib.differences(checkpoint.config, config.to_dict())
    (workdir / "config.json").write_text(config_lib.to_json(config), encoding="utf-8")
    print(
        describe_run(
            config,
            workdir,
            data.split_sizes,
            host_state.params,
            trainable,
            steps_per_epoch,
            data.describe_shapes(),
            progress,
            changes,
        ),
        flush=True,
    )

    state = parallel.replicate(host_state)
    train_step = parallel.pmap_train(make_train_step(trainable, schedule, config.lm_weight))
    eval_step = parallel.pmap_eval(make_eval_step())
    log = RunLog(workdir, config, progress.step)
    line = ProgressLine(total_steps, progress.step)

    # The epochs.
    while progress.epoch < config.max_epochs and not _stops_early(config, progress):
        state, progress = _train_epoch(
            config, data, train_step, state, progress, checkpoints, log, line
        )
        progress = progress.after_epoch()
        validation = evaluate(eval_step, state, data.eval_batches("validation"))
        row = _validation_row(validation, progress)
        log.write(row)
        line.say(_describe_validation(row))
        monitored = _monitored(row, config.checkpoint.monitor)
        progress = progress.after_validation(monitored, config.checkpoint.mode)
        metrics = {name: value for name, value in row.items() if isinstance(value, float)}
        _save(checkpoints, log, state, progress, metrics)
    line.close()

    # The end: the best checkpoint on the test split, and the picture.
    best = progress.best_step if checkpoints.has(progress.best_step) else None
    if best is not None and best != progress.step:
        state = parallel.replicate(from_tree(host_state, checkpoints.restore(best).state))
    checkpoints.close()
    test = evaluate(eval_step, state, data.eval_batches("test"))
    no_formula = evaluate(
        eval_step, state, data.eval_batches("test", replace_formula=True), suffix="_no_formula"
    )
    row = _test_row(test, no_formula, progress, best)
    log.write(row)
    log.sync()
    log.close()
    write_report(
        workdir / "report.png", read_rows(workdir / "metrics.jsonl"), test.crystals, test.texts
    )
    print(_describe_test(row, workdir), flush=True)
    return row


def _train_epoch(
    config: ml_collections.ConfigDict,
    data: RunData,
    train_step: Any,
    state: TrainState,
    progress: RunProgress,
    checkpoints: Checkpoints,
    log: RunLog,
    line: ProgressLine,
) -> tuple[TrainState, RunProgress]:
    """The rest of the epoch that `progress` is in, one optimizer update after the other."""
    examples_per_step = config.batch_size * config.accumulate_steps
    meter = _Meter(examples_per_step)
    previous: tuple[int, dict[str, jax.Array]] | None = None
    for batch in meter.timed(data.train_batches(progress.epoch, progress.examples_in_epoch)):
        state, metrics = train_step(state, batch)
        progress = progress.after_step(examples_per_step)
        # One step behind, so that the device always has its next step queued.
        if previous is not None:
            _check_finite(*previous)
        previous = progress.step, metrics

        if progress.step % config.log_every_n_steps == 0:
            values = {name: float(value) for name, value in parallel.first(metrics).items()}
            values = {**NO_LOSS_TERMS, **values}
            _check_finite(progress.step, metrics)
            rate, wait = meter.read()
            log.write(
                {
                    "split": "train",
                    "step": progress.step,
                    "epoch": progress.epoch,
                    "examples_seen": progress.examples_seen,
                    **values,
                    "examples_per_second": rate,
                    "data_wait_fraction": wait,
                }
            )
            line.update(progress.step, progress.epoch, values["loss"], rate)
        every = config.checkpoint.every_n_steps
        if every and progress.step % every == 0 and not data.ends_epoch(progress):
            _check_finite(progress.step, metrics)
            _save(checkpoints, log, state, progress, None)
    if previous is not None:
        _check_finite(*previous)
    return state, progress


def _save(
    checkpoints: Checkpoints,
    log: RunLog,
    state: TrainState,
    progress: RunProgress,
    metrics: dict[str, float] | None,
) -> None:
    log.sync()  # a checkpoint must never be newer than the rows that led to it
    checkpoints.save(to_tree(parallel.first(state)), progress, metrics)


class _Meter:
    """Examples per second and the share of time spent waiting for data, since the last reading."""

    def __init__(self, examples_per_step: int):
        self._examples_per_step = examples_per_step
        self._reset()

    def _reset(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            batch = next(iterator, None)
            self._waited += time.perf_counter() - before
            if batch is None:
                return
            self._steps += 1
            yield batch

    def read(self) -> tuple[float, float]:
        elapsed = time.perf_counter() - self._since
        result = self._steps * self._examples_per_step / elapsed, self._waited / elapsed
        self._reset()
        return result


def _check_finite(step: int, metrics: dict[str, jax.Array]) -> None:
    loss, norm = (
        float(np.asarray(metrics[k].addressable_data(0))[0]) for k in ("loss", "grad_norm")
    )
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise TrainingDivergedError(
            f"At step {step} the loss is {loss} and the gradient norm {norm}. The newest "
            "checkpoint is from before that: lower learning_rate or gradient_clip, raise "
            "warmup_steps, and start the same command again."
        )


def _monitored(row: dict[str, Any], monitor: str) -> float:
    if monitor not in row:
        names = sorted(name for name, value in row.items() if isinstance(value, float))
        raise config_lib.ConfigError(
            f'Config key "checkpoint.monitor" is {monitor!r}, which no validation row has. '
            f"Use one of {', '.join(names)}."
        )
    return row[monitor]


def _stops_early(config: ml_collections.ConfigDict, progress: RunProgress) -> bool:
    patience = config.early_stopping_patience
    return bool(patience) and progress.validations_since_best >= patience


def _validation_row(validation: Evaluation, progress: RunProgress) -> dict[str, Any]:
    metrics = dict(validation.metrics)
    return {
        "split": "val",
        "step": progress.step,
        "epoch": progress.epoch - 1,
        "examples_seen": progress.examples_seen,
        "val_loss": metrics.pop("loss"),
        "val_acc_top1": metrics.pop("acc_top1"),
        "val_acc_top3": metrics.pop("acc_top3"),
        **metrics,
        "pool_size": len(validation.crystals),
    }


def _test_row(
    test: Evaluation, no_formula: Evaluation, progress: RunProgress, best: int | None
) -> dict[str, Any]:
    metrics = dict(test.metrics)
    extra = {k: v for k, v in no_formula.metrics.items() if k.endswith("_no_formula")}
    return {
        "split": "test",
        "step": progress.step,
        "epoch": progress.epoch - 1,
        "examples_seen": progress.examples_seen,
        "checkpoint_step": progress.step if best is None else best,
        "test_loss": metrics.pop("loss"),
        "val_acc_top1": metrics.pop("acc_top1"),
        "val_acc_top3": metrics.pop("acc_top3"),
        **metrics,
        **extra,
        "pool_size": len(test.crystals),
    }


def _describe_validation(row: dict[str, Any]) -> str:
    return (
        f"epoch {row['epoch']} done  val_loss {row['val_loss']:.3f}  in batch top-1 "
        f"{row['val_acc_top1']:.1%}  among {row['pool_size']} crystals: text->crystal top-1 "
        f"{row['text_to_crystal_top1']:.1%}, top-10 {row['text_to_crystal_top10']:.1%}"
    )


def _describe_test(row: dict[str, Any], workdir: Path) -> str:
    lines = [
        f"test      {row['pool_size']} unseen crystals, "
        f"checkpoint of step {row['checkpoint_step']}",
        f"            {'':<28}{'top-1':>8}{'top-3':>8}{'top-10':>8}",
    ]
    for direction in ("text_to_crystal", "crystal_to_text"):
        for suffix, words in (("", ""), ("_no_formula", ", no formula")):
            name = direction.replace("_to_", " -> ") + words
            accuracies = (row[f"{direction}_top{k}{suffix}"] for k in (1, 3, 10))
            lines.append(f"            {name:<28}" + "".join(f"{a:>8.1%}" for a in accuracies))
    lines.append(f"report    {workdir / 'report.png'}")
    return "\n".join(lines)


def _open_workdir(workdir: str | Path) -> Path:
    path = Path(workdir).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write_probe"
        probe.write_bytes(b"ok")
        probe.unlink()
    except FileExistsError as error:
        raise WorkdirError(f"--workdir={path} is a file. Name a folder.") from error
    except OSError as error:
        raise WorkdirError(
            f"Cannot write to --workdir={path}: {error.strerror}. Choose another folder, or make "
            "room or permission there."
        ) from error
    return path


def _use_compilation_cache(config: ml_collections.ConfigDict) -> None:
    if config.compilation_cache:
        cache = Path(config.compilation_cache).expanduser()
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
