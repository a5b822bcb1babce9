"""The training run in order: data, model, state, epochs of steps, checkpoints, report."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections
import numpy as np
import optax

from clac_jax.bucket.workdir import RunPlace, place_of
from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.division import spans_processes
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.part_writer import PartCheckpoints
from clac_jax.checkpoint.saving import Saver
from clac_jax.checkpoint.tree import from_arrays, to_arrays
from clac_jax.checkpoint.writer import CheckpointWriter, NoCheckpoints
from clac_jax.config import check as config_check
from clac_jax.config import schema as config_lib
from clac_jax.distributed import processes, program_facts
from clac_jax.distributed.hang import HungRun
from clac_jax.distributed.preemption import Preempted, StopSignals
from clac_jax.distributed.sending import any_text
from clac_jax.distributed.share import share_of_process
from clac_jax.distributed.watchdog import STEP, NoWatchdog, Watch, Watchdog
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import local_path
from clac_jax.input_pipeline.batch import Batch
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.models import abstract_variables
from clac_jax.models.encoders import encoder_needs
from clac_jax.reporting import summary
from clac_jax.reporting.events import EVENTS_FILE, Events, NoEvents
from clac_jax.reporting.goodput import recorded_seconds
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.reporting.progress_line import ProgressLine, SilentLine
from clac_jax.reporting.rows import Row, numbers, test_row, train_row, validation_row
from clac_jax.reporting.run_log import RunLog, SilentLog
from clac_jax.reporting.throughput import Meter
from clac_jax.run import Current, Run
from clac_jax.tasks import make_task
from clac_jax.training import optim
from clac_jax.training.compilation_cache import use_compilation_cache
from clac_jax.training.parallel import make_parallel
from clac_jax.training.run_end import has_ended, stopped_early, why_ended
from clac_jax.training.schedules import make_schedule, timeline_of
from clac_jax.training.state import create_train_state


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    stop: StopSignals | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Trains the model of a config, resuming from the newest checkpoint in the workdir, if any.

    Args:
        config: the run's config; see `clac_jax.config.default_config`.
        workdir: folder of the run, created if it does not exist; or a URL of one in a bucket.
        stop: listens for the signals that request a stop; by default there is no listener.
        began: unix seconds at which the program began, for `clac-jax goodput`; by default, now.

    Returns:
        The test row: measures of the best checkpoint on the test split, named as in
        metrics.jsonl.

    Raises:
        UserError: the config, data or workdir cannot be used, or training has diverged.
        Preempted: a stop was requested, and the run has been saved.
    """
    config = config_check.ready(config)
    _configure_jax(config)
    stop = stop or StopSignals()
    stop.before_leaving = processes.report_stop
    place = place_of(workdir, config.bucket)
    processes.start(config.distributed, lambda: program_facts.of_program(config))
    if config.compilation_cache:
        cache = local_path(
            config.compilation_cache, "config.compilation_cache", "each machine compiles for itself"
        )
        use_compilation_cache(cache)
    with contextlib.ExitStack() as stack:
        events: Events | NoEvents = NoEvents()
        if processes.is_first():
            stack.enter_context(place)
            events = stack.enter_context(Events(place.folder / EVENTS_FILE, began))
            stop.before_leaving = functools.partial(_before_leaving, place, events)
        stack.enter_context(processes.report_lost_processes())
        watchdog = stack.enter_context(_make_watchdog(config, place, events))
        try:
            with watchdog.watching("the start of the run"):
                run = _set_up(config, place, stop, watchdog, events)
            stack.callback(run.log.close_files)
            _train_epochs(run)
            with watchdog.watching("the final test"):
                row = _test(run)
        except Preempted:  # in all processes at the same step
            processes.end()
            raise
        processes.end()
        return row


def _set_up(
    config: ml_collections.ConfigDict,
    place: RunPlace,
    stop: StopSignals,
    watchdog: Watch,
    events: Events | NoEvents,
) -> Run:
    first, workdir = processes.is_first(), place.folder
    parallel = make_parallel(config)
    origin = resume.find_origin(config, workdir) if first else resume.Origin()

    # Data: from crystals and texts to batches.
    events.phase("data")
    with watchdog.unwatched():  # it may have to be built, for hours
        data = RunData(config, encoder_needs(config), share_of_process())
    data.on_eval_batch = watchdog.alive
    num_examples = data.split_sizes["train"]
    fingerprints = {split: data.splits.fingerprint(split) for split in data.split_sizes}
    processes.agree("data", {f"the {split} split": text for split, text in fingerprints.items()})

    # Model and optimizer: shapes of their arrays, before any array is allocated or read.
    task = make_task(config, data, parallel)
    example = data.example_batch()
    events.phase("start")
    abstract = abstract_variables(task.model, example)
    make_optimizer = functools.partial(optim.make_optimizer, config, abstract["params"])
    trainable = optim.trainable_mask(abstract["params"], config.frozen)
    create = functools.partial(
        create_train_state, task.model.apply, tx=make_optimizer(optax.constant_schedule(0.0))
    )
    template = jax.eval_shape(lambda variables: create(variables, seed=config.seed), abstract)
    shapes = to_arrays(parallel.describe(template))
    processes.agree("model", program_facts.of_arrays(shapes))

    def initialise() -> dict[str, Any]:
        return to_arrays(
            parallel.initialise(
                lambda: task.initialise(example),
                functools.partial(create, seed=config.seed),
                template,
            )
        )

    # Initial state: fresh, or from a checkpoint.
    events.phase("restore")
    now = Present(config, num_examples, fingerprints)
    origin = resume.shared_origin(origin, config, place.see, shapes)
    start = resume.in_all_processes(
        lambda: resume.begin(origin, workdir, now, shapes, initialise), shapes
    )
    progress = start.progress
    events.restored(progress.step, progress.epoch)
    events.phase("start")
    timeline = timeline_of(config, num_examples, progress)
    schedule = make_schedule(config, timeline)
    template = template.replace(tx=make_optimizer(schedule))

    # Output: only in the first process, except for the parts of a sharded state.
    checkpoints: CheckpointWriter = NoCheckpoints()
    if not first and spans_processes(shapes):
        index = jax.process_index()
        checkpoints = PartCheckpoints(place.folder_of(index), config, shapes, index)
    log: RunLog | SilentLog = SilentLog()
    line: ProgressLine | SilentLine = SilentLine()
    if first:
        checkpoints = place.followed(
            Checkpoints(workdir, config, shapes, num_examples, start.damaged, fingerprints)
        )
        validated, resumed = progress.examples_in_epoch == 0, bool(origin.own)
        log = RunLog(workdir, config, progress.step, validated, resumed)
        write_atomically(workdir / "config.json", config_lib.to_json(config))
        next_rate = float(np.asarray(schedule(progress.step))) * progress.learning_rate_scale
        lines = [
            *summary.describe_program(),
            *summary.describe_data(config, data.split_sizes, data.splits.num_unlabelled),
            *summary.describe_parameters(abstract["params"], trainable),
            *summary.describe_steps(config, timeline, data.describe_shapes()),
            f"workdir   {place.shown}",
            *summary.describe_start(config, start, next_rate),
        ]
        print("\n".join(lines).replace(str(workdir), place.shown), flush=True)
        line = ProgressLine(timeline.total_steps, progress.step)
    if spans_processes(shapes):
        names = any_text(secrets.token_hex(4) if first else "")
        checkpoints.share_saves(names, place.exchange())

    return Run(
        config=config,
        workdir=workdir,
        shown=place.shown,
        data=data,
        task=task,
        parallel=parallel,
        train_step=parallel.train(trainable, schedule, task.loss),
        template=template,
        saver=Saver(parallel, checkpoints, log, config.checkpoint, watchdog),
        log=log,
        line=line,
        events=events,
        stop=stop,
        requests=processes.SharedRequests(),
        watchdog=watchdog,
        began_at=progress,
        is_own=start.is_own,
        current=Current(parallel.put(from_arrays(template, start.arrays)), progress),
    )


def _train_epochs(run: Run) -> None:
    """Trains to the end of the run; if it ends early for any reason, saves what is safe."""
    config, current, saver = run.config, run.current, run.saver

    def save() -> str:
        return saver.save_without_others(current.state, current.progress)

    def save_if_hung() -> str:
        if run.watchdog.is_doing(STEP):  # the row of the step may not have been written yet
            saver.checkpoints.drain()
            return saver.checkpoints.describe_newest()
        return save()

    run.events.phase("train")
    processes.save_if_lost(save)
    run.watchdog.save_first = save_if_hung
    try:
        while not has_ended(config, current.progress):
            save_is_due = _train_epoch(run)
            with run.events.during("validation"), run.watchdog.watching("the validation"):
                row = _validate(run)
            run.events.progress(current.progress.step, current.progress.epoch)
            is_last = has_ended(config, current.progress)
            if save_is_due or saver.due_after_validation(current.progress, is_last):
                run.save(numbers(row))
        if current.progress == run.began_at and not run.is_own:  # trained by a different run
            run.save()
        with run.events.during("save_wait"):
            saver.checkpoints.wait_for_last()
    except Exception as error:
        processes.end_if_lost(error)
        with processes.report_lost_processes():
            run.check_finite()
            processes.announce_last_save()
            with run.events.during("save_wait"):
                saver.save_before_leaving(current.state, current.progress, error)
        raise
    if stopped_early(config, current.progress) and current.progress != run.began_at:
        run.line.say(why_ended(config, current.progress))
    count = len(current.layouts)
    run.line.say(f"programs  {count} of the training step, one per batch shape")
    run.line.close()
    run.stop.set_unsaved_work(False)


def _train_epoch(run: Run) -> bool:
    """Trains for the rest of the current epoch, one optimizer update at a time.

    Returns:
        Whether a save is due at its last step; it is deferred until after the validation.
    """
    config, current, saver = run.config, run.current, run.saver
    examples_per_step = config.batch_size * config.accumulate_steps
    meter, save_is_due = Meter(examples_per_step, run.events), False
    epoch, examples_done = current.progress.epoch, current.progress.examples_in_epoch
    batches = meter.timed(run.data.train_batches(epoch, examples_done))
    for batch in run.watchdog.steps(batches, lambda each: each.layout not in current.layouts):
        is_new = batch.layout not in current.layouts
        current.layouts.add(batch.layout)
        with run.events.during("compile" if is_new else "train"):
            state, metrics = run.train_step(current.state, batch)
        if current.progress == run.began_at:
            run.events.record("compiled")
        # The next step is already queued, so that the device is never idle.
        run.check_finite()
        current.state, current.metrics = state, metrics
        current.progress = current.progress.after_step(examples_per_step)
        run.stop.set_unsaved_work(True)
        run.events.progress(current.progress.step, epoch)
        if current.progress.step == run.began_at.step + 1:
            run.check_finite()  # waits for it
            run.events.record("first_step")

        if current.progress.step % config.log_every_n_steps == 0:
            values = {k: float(value) for k, value in run.parallel.to_host(metrics).items()}
            run.check_finite()
            terms = {**run.task.absent_terms, **values}
            row = train_row(current.progress, terms, *meter.read())
            run.log.write(row)
            run.line.update(row)
        saver.checkpoints.check()
        due_by_time = run.poll(save_requested=saver.due_by_time())
        save_is_due = due_by_time or saver.due_at_step(current.progress)
        if save_is_due and not run.data.ends_epoch(current.progress.examples_in_epoch):
            run.check_finite()
            run.save()
    run.check_finite()
    return save_is_due


def _validate(run: Run) -> Row:
    """Validates at the end of an epoch, and advances the run to the next one."""
    config, current = run.config, run.current
    batches = _until_stopped(run, run.data.eval_batches("validation"))
    measures = run.task.validate(current.state, batches)
    progress = current.progress.after_epoch()
    row = validation_row(measures, progress)
    run.log.write(row)
    value = row[config.checkpoint.monitor]
    current.progress = progress.after_validation(value, config.checkpoint.mode)
    if config.schedule == "plateau":
        _lower_on_plateau(run, value)
    run.line.say(f"epoch {row['epoch']} done  {run.task.describe_validation(row)}")
    return row


def _lower_on_plateau(run: Run, value: float) -> None:
    """Passes the monitored value to the plateau schedule, and its learning rate to the state."""
    config, current = run.config, run.current
    options = config.plateau
    min_scale = config.min_learning_rate / max(config.learning_rate, config.min_learning_rate)
    before = current.progress.learning_rate_scale
    current.progress = current.progress.after_plateau(
        value, config.checkpoint.mode, options.factor, options.patience, min_scale
    )
    scale = current.progress.learning_rate_scale
    if scale != before:
        scales = run.parallel.put(np.float32(scale))
        current.state = current.state.replace(learning_rate_scale=scales)


def _until_stopped(run: Run, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, until a process receives a signal to stop."""
    for batch in batches:
        run.poll()
        yield batch


def _test(run: Run) -> Row:
    """Evaluates the best checkpoint on the test split, and draws the report."""
    current, log, checkpoints = run.current, run.log, run.saver.checkpoints
    run.events.phase("test")
    state, tested_step = run.saver.best_state(run.template, current.state)
    measures, write_report = run.task.test(state)
    row = test_row(measures, current.progress, tested_step)
    log.write(row)
    log.sync()
    checkpoints.end(current.progress)  # may remove the last one, which is no longer needed
    checkpoints.close()
    log.close()
    if processes.is_first():
        report = run.workdir / "report.png"
        run.events.record("tested")
        seconds = recorded_seconds(run.workdir / EVENTS_FILE)
        write_report(report, read_rows(run.workdir / "metrics.jsonl"), seconds)
        print(f"{run.task.describe_test(row)}\nreport    {run.shown}/report.png", flush=True)
    return row


def _make_watchdog(
    config: ml_collections.ConfigDict, place: RunPlace, events: Events | NoEvents
) -> Watch:
    if not config.watchdog.enabled:
        return NoWatchdog()
    index, count = jax.process_index(), jax.process_count()
    hung = HungRun(place.folder, processes.current_link(), index, count)
    watchdog = Watchdog(config.watchdog, hung.end)
    hung.doing = watchdog.describe
    hung.save_first = lambda: watchdog.save_first()
    hung.complete = place.complete
    hung.record = lambda reason: events.record("hung", reason=reason)
    return watchdog


def _before_leaving(place: RunPlace, events: Events | NoEvents, signal_name: str) -> None:
    """Reports that a signal ends this process now, with nothing to save."""
    events.record("stopped", signal=signal_name)
    processes.report_stop(signal_name)
    place.complete()


def _configure_jax(config: ml_collections.ConfigDict) -> None:
    flags, deterministic = os.environ.get("XLA_FLAGS", ""), "--xla_gpu_deterministic_ops=true"
    if config.deterministic and deterministic not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {deterministic}".strip()  # read with the first device
