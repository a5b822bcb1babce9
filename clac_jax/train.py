"""The training run, top to bottom: data, model, state, epochs of steps, checkpoints, report."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from clac_jax.checkpoint import resume
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.saving import Saver
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.config import check as config_check
from clac_jax.config import schema as config_lib
from clac_jax.distributed import processes, program_facts
from clac_jax.distributed.preemption import Preempted, StopSignals
from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import UserError
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import local_path
from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models import abstract_variables
from clac_jax.models.encoders import encoder_needs
from clac_jax.reporting.rows import numbers, test_row, train_row, validation_row
from clac_jax.reporting.run_log import ProgressLine, RunLog, SilentLog, read_rows
from clac_jax.reporting.summary import describe_run
from clac_jax.reporting.throughput import Meter
from clac_jax.tasks import Task, make_task
from clac_jax.training import optim
from clac_jax.training.parallel import Parallel, make_parallel
from clac_jax.training.progress import RunProgress
from clac_jax.training.run_end import has_ended, stopped_early, why_ended
from clac_jax.training.schedules import make_schedule
from clac_jax.training.state import TrainState, create_train_state


class TrainingDivergedError(UserError):
    """The loss or the gradient is no longer a number."""

    spoils_state = True


@dataclass
class Loop:
    """What changes during a run.

    Attributes:
        parallel: how steps run on the devices.
        state: on the devices.
        progress: where the run is; always that of `state`.
        metrics: of the last step, until it is known that they are numbers.
        layouts: of the batches so far; each has a program of its own.
    """

    parallel: Parallel
    state: TrainState
    progress: RunProgress
    metrics: dict[str, jax.Array] | None = None
    layouts: set[Any] = field(default_factory=set)

    def check_finite(self) -> None:
        """Waits for the last step and checks its loss and gradient.

        Raises:
            TrainingDivergedError: one of them is not a finite number.
        """
        metrics, self.metrics = self.metrics, None
        if metrics is None:
            return
        values = self.parallel.to_host({name: metrics[name] for name in ("loss", "grad_norm")})
        loss, norm = float(values["loss"]), float(values["grad_norm"])
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingDivergedError(
                f"At step {self.progress.step} the loss is {loss} and the gradient norm {norm}. "
                "The newest checkpoint is from before that: lower learning_rate or gradient_clip, "
                "raise warmup_steps, and start the same command again."
            )


def train(
    config: ml_collections.ConfigDict, workdir: str | Path, stop: StopSignals | None = None
) -> dict[str, float]:
    """Trains from the config, in the workdir, going on from its newest checkpoint if it has one.

    Args:
        config: see `clac_jax.config.default_config`.
        workdir: folder of the run; made if it is not there.
        stop: listens for the signals that ask the run to end; none by default.

    Returns:
        The test metrics.

    Raises:
        UserError: the config, the data, the workdir or the numbers cannot be used.
        Preempted: the run was asked to stop, and has saved.
    """
    config = config_check.ready(config)
    _configure_jax(config)
    stop = stop or StopSignals()
    stop.before_leaving = processes.stops
    processes.start(config.distributed, lambda: program_facts.of_program(config))
    with contextlib.ExitStack() as stack:
        folder = local_path(workdir, "--workdir")
        if processes.is_first():
            folder = stack.enter_context(Workdir(workdir))
        stack.enter_context(processes.losses_told())
        try:
            row = _train(config, folder, stop)
        except Preempted:  # in all processes at the same step
            processes.end()
            raise
        processes.end()
        return row


def _train(config: ml_collections.ConfigDict, workdir: Path, stop: StopSignals) -> dict[str, float]:
    first = processes.is_first()
    parallel = make_parallel(config)
    origin = resume.find_origin(config, workdir) if first else resume.Origin()

    # Crystals and texts -> batches.
    data = RunData(config, encoder_needs(config))
    fingerprints = {split: data.fingerprint(split) for split in data.split_sizes}
    processes.agree("data", {f"the {split} split": text for split, text in fingerprints.items()})

    # Model and optimizer: what their arrays will look like, before any is made or read.
    task = make_task(config, data, parallel)
    example = data.example_batch()
    abstract = abstract_variables(task.model, example)
    make_optimizer = functools.partial(optim.make_optimizer, config, abstract["params"])
    trainable = optim.trainable_mask(abstract["params"], config.frozen)
    create = functools.partial(
        create_train_state, task.model.apply, tx=make_optimizer(optax.constant_schedule(0.0))
    )
    template = jax.eval_shape(lambda variables: create(variables, seed=config.seed), abstract)
    shapes = to_arrays(template)
    processes.agree("model", program_facts.of_arrays(shapes))

    def initialise() -> dict[str, Any]:
        return to_arrays(create(task.initialise(example), seed=config.seed))

    # The state to begin with: fresh, or from a checkpoint.
    num_examples = data.split_sizes["train"]
    start = _start(origin, config, workdir, shapes, initialise, num_examples, fingerprints)
    progress = start.progress
    timeline = data.timeline(progress)
    schedule = make_schedule(config, timeline)
    template = template.replace(tx=make_optimizer(schedule))
    host_state = from_arrays(template, start.arrays)

    # What is written: by the first process alone.
    checkpoints: Checkpoints | None = None
    log: RunLog | SilentLog = SilentLog()
    if first:
        checkpoints = Checkpoints(
            workdir, config, shapes, num_examples, start.damaged, fingerprints
        )
        log = RunLog(
            workdir,
            config,
            progress.step,
            validated=progress.examples_in_epoch == 0,
            resumed=bool(origin.own),
        )
        write_atomically(workdir / "config.json", config_lib.to_json(config))
        print(
            describe_run(
                config,
                workdir,
                data.split_sizes,
                data.num_unlabelled,
                host_state.params,
                trainable,
                data.steps_per_epoch,
                data.describe_shapes(),
                start,
                timeline.total_steps,
                float(np.asarray(schedule(progress.step))) * progress.learning_rate_scale,
            ),
            flush=True,
        )
    line = ProgressLine(timeline.total_steps, progress.step, silent=not first)
    saver = Saver(parallel, checkpoints, log, config.checkpoint)

    loop = Loop(parallel, parallel.put(host_state), progress)
    first_progress, is_own = progress, start.is_own
    del start, host_state
    train_step = parallel.train(trainable, schedule, task.loss)
    wishes = processes.Wishes()

    # The epochs.
    processes.save_if_lost(lambda: saver.save_what_is_there(loop.state, loop.progress))
    try:
        while not has_ended(config, loop.progress):
            is_due = _train_epoch(
                config, task, data, train_step, loop, saver, log, line, stop, wishes
            )
            batches = _until(stop, wishes, data.eval_batches("validation"))
            measures = task.validate(loop.state, batches)
            progress = loop.progress.after_epoch()
            row = validation_row(measures, progress)
            options = config.checkpoint
            log.write(row)
            value = row[options.monitor]
            loop.progress = progress.after_validation(value, options.mode)
            if config.schedule == "plateau":
                _lower_on_plateau(config, loop, value)
            line.say(f"epoch {row['epoch']} done  {task.describe_validation(row)}")
            is_last = has_ended(config, loop.progress)
            if is_due or saver.due_after_validation(loop.progress, is_last):
                saver.save(loop.state, loop.progress, numbers(row))
        if loop.progress == first_progress and not is_own:  # another run has trained it
            saver.save(loop.state, loop.progress)
        saver.wait_for_last()
    except Exception as error:
        processes.end_if_lost(error)
        with processes.losses_told():
            loop.check_finite()
            processes.first_ends_by_itself()
            saver.save_before_leaving(loop.state, loop.progress, error)
        raise
    if stopped_early(config, loop.progress) and loop.progress != first_progress:
        line.say(why_ended(config, loop.progress))
    line.say(f"programs  {len(loop.layouts)} of the training step, for as many shapes of batches")
    line.close()
    stop.there_is_work_to_save(False)

    # The end: the best checkpoint on the test split, and the picture.
    state, tested_step = saver.best_state(template, loop.state)
    measures, write_report = task.test(state)
    row = test_row(measures, loop.progress, tested_step)
    log.write(row)
    log.sync()
    saver.end(loop.progress)  # the last checkpoint may go, now that nothing resumes from it
    saver.close()
    log.close()
    if first:
        report = workdir / "report.png"
        write_report(report, read_rows(workdir / "metrics.jsonl"))
        print(f"{task.describe_test(row)}\nreport    {report}", flush=True)
    return row


def _start(
    origin: resume.Origin,
    config: ml_collections.ConfigDict,
    workdir: Path,
    shapes: dict[str, jax.ShapeDtypeStruct],
    *others: Any,
) -> resume.Start:
    """`resume.begin` in the first process, whose state and position the others are sent."""
    begun = resume.Start({}, RunProgress(), "", [], [])
    if processes.is_first():
        begun = resume.begin(origin, config, workdir, shapes, *others)

    def made() -> tuple[Any, bytes]:
        return begun.arrays, json.dumps([begun.progress.to_json(), begun.is_own]).encode()

    arrays, position = processes.from_first(made, shapes)
    progress, is_own = json.loads(position)
    return dataclasses.replace(
        begun, arrays=arrays, progress=RunProgress.from_json(progress), is_own=is_own
    )


def _train_epoch(
    config: ml_collections.ConfigDict,
    task: Task,
    data: RunData,
    train_step: Any,
    loop: Loop,
    saver: Saver,
    log: RunLog | SilentLog,
    line: ProgressLine,
    stop: StopSignals,
    wishes: processes.Wishes,
) -> bool:
    """The rest of the epoch that `loop.progress` is in, one optimizer update after the other.

    Returns:
        Whether a save fell due at its last step, which waits for the validation.
    """
    examples_per_step = config.batch_size * config.accumulate_steps
    meter, is_due = Meter(examples_per_step), False
    epoch, examples_done = loop.progress.epoch, loop.progress.examples_in_epoch
    for batch in meter.timed(data.train_batches(epoch, examples_done)):
        loop.layouts.add(batch.layout)
        state, metrics = train_step(loop.state, batch)
        # After the next step is queued, so that the device always has one to do.
        loop.check_finite()
        loop.state, loop.metrics = state, metrics
        loop.progress = loop.progress.after_step(examples_per_step)
        stop.there_is_work_to_save(True)

        if loop.progress.step % config.log_every_n_steps == 0:
            values = {k: float(value) for k, value in loop.parallel.to_host(metrics).items()}
            loop.check_finite()
            row = train_row(loop.progress, {**task.absent_terms, **values}, *meter.read())
            log.write(row)
            line.update(row)
        saver.check()
        told_to_stop, due_by_time = wishes.ask(stop.requested, saver.due_by_time())
        if told_to_stop:
            stop.obey()
        is_due = due_by_time or saver.due_at_step(loop.progress)
        if is_due and not data.ends_epoch(loop.progress):
            loop.check_finite()
            saver.save(loop.state, loop.progress)
    loop.check_finite()
    return is_due


def _lower_on_plateau(config: ml_collections.ConfigDict, loop: Loop, value: float) -> None:
    """Lets the plateau schedule see a validation, and the state its answer."""
    options = config.plateau
    min_scale = config.min_learning_rate / max(config.learning_rate, config.min_learning_rate)
    before = loop.progress.learning_rate_scale
    loop.progress = loop.progress.after_plateau(
        value, config.checkpoint.mode, options.factor, options.patience, min_scale
    )
    scale = loop.progress.learning_rate_scale
    if scale != before:
        scales = loop.parallel.put(np.float32(scale))
        loop.state = loop.state.replace(learning_rate_scale=scales)


def _until(
    stop: StopSignals, wishes: processes.Wishes, batches: Iterable[Batch]
) -> Iterator[Batch]:
    """The batches, as long as nobody asks the run to stop."""
    for batch in batches:
        told_to_stop, _ = wishes.ask(stop.requested, False)
        if told_to_stop:
            stop.obey()
        yield batch


def _configure_jax(config: ml_collections.ConfigDict) -> None:
    flags, deterministic = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_deterministic_ops=true"
    if config.deterministic and deterministic not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {deterministic}".strip()  # read with the first device
    if config.compilation_cache:
        cache = local_path(config.compilation_cache, "config.compilation_cache")
        jax.config.update("jax_compilation_cache_dir", str(cache))
