"""The training run in order: epochs of steps, validations, checkpoints, final test, report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import ml_collections

from clac_jax.chain.chain_file import end_chain
from clac_jax.checkpoint.sharing import with_absolute_store
from clac_jax.config import check as config_check
from clac_jax.distributed import processes
from clac_jax.distributed.preemption import Preempted, StopSignals
from clac_jax.distributed.watchdog import STEP
from clac_jax.errors import one_line
from clac_jax.healing.errors import GoBack
from clac_jax.input_pipeline.batch import Batch
from clac_jax.reporting.events import EVENTS_FILE
from clac_jax.reporting.goodput import recorded_seconds
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.reporting.rows import Row, numbers, test_row, train_row, validation_row
from clac_jax.reporting.throughput import Meter
from clac_jax.run import Run, check_measures
from clac_jax.run_setup import set_up
from clac_jax.session import Session, open_session
from clac_jax.training.run_end import has_ended, stops_for_now, why_ended
from clac_jax.training.schedules import after_plateau


def train(
    config: ml_collections.ConfigDict | ml_collections.FrozenConfigDict,
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
        metrics.jsonl; empty if the run stops for now, by `stop_at_epoch` or `stop_at_step`.

    Raises:
        UserError: the config, data or workdir cannot be used, or training has diverged.
        Preempted: a stop was requested, and the run has been saved.
    """
    config = with_absolute_store(config_check.ready(config))
    with (
        open_session(config, workdir, stop or StopSignals(), began) as session,
        contextlib.ExitStack() as stack,
    ):
        try:
            run = _trained(config, session, stack)
            if has_ended(config, run.current.progress):
                with session.watchdog.watching("the final test"):
                    row = _test(run)
            else:
                row = _leave_untested(run)
        except Preempted:  # in all processes at the same step
            processes.end()
            raise
        processes.end()
        return row


def _trained(
    config: ml_collections.ConfigDict, session: Session, stack: contextlib.ExitStack
) -> Run:
    """Sets up the run and trains it to its end or stop, going back to a checkpoint if need be."""
    while True:
        with session.watchdog.watching("the start of the run"):
            run = set_up(config, session)
        stack.callback(run.log.close_files)
        try:
            _train_epochs(run)
            return run
        except GoBack as request:
            run.line.say(f"healing   {request}; back to the newest checkpoint")
        with session.watchdog.watching("the start of the run"):
            run.go_back()
        del run  # and with it the memory of its state


def _train_epochs(run: Run) -> None:
    """Trains to the end or stop of the run; if it ends early for any reason, saves what is safe."""
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
        while not _is_done(run):
            save_is_due = _train_epoch(run)
            if _is_done(run):  # it stops within the epoch
                break
            after = current.progress.after_epoch()
            if not (has_ended(config, after) or stops_for_now(config, after)):
                run.data.start_epoch(after.epoch)
            with run.events.during("validation"), run.watchdog.watching("the validation"):
                row = _validate(run)
            run.events.progress(current.progress.step, current.progress.epoch)
            is_last = has_ended(config, current.progress)
            if save_is_due or saver.due_after_validation(current.progress, is_last):
                run.save(numbers(row))
            elif _is_done(run):
                run.save()  # which checkpoint is best does not depend on where the run stops
        if current.progress == run.began_at and not run.is_own:  # trained by a different run
            run.save()
        with run.events.during("save_wait"):
            saver.checkpoints.wait_for_last()
    except GoBack:
        raise
    except Exception as error:
        cause = _stop_behind(run, error) or error
        processes.end_if_lost(error)
        with processes.report_lost_processes():
            run.finish_step()
            processes.announce_last_save()
            with run.events.during("save_wait"):
                saver.save_before_leaving(current.state, current.progress, cause)
        if cause is not error:
            run.line.say(f"stopping  the step failed after the signal: {one_line(error)}")
            raise cause from error
        raise
    if current.progress.epoch < config.max_epochs and current.progress != run.began_at:
        run.line.say(why_ended(config, current.progress))
    count = len(current.layouts)
    run.line.say(f"programs  {count} of the training step, one per batch shape")
    run.line.close()
    run.stop.set_unsaved_work(False)


def _stop_behind(run: Run, error: Exception) -> Preempted | None:
    """The request to stop that is why a step failed, if it is and the state can be saved.

    A signal to all programs of a job also ends the compiler of a GPU (`ptxas`), and with it the
    step that was compiled. Of several processes, the others do not know of the error.
    """
    intact = not any(leaf.is_deleted() for leaf in jax.tree.leaves(run.current.state))
    of_device = isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() == 1
    if of_device and intact and run.current.progress.step > 0:
        try:
            run.stop.raise_if_requested(run.stop.requested)
        except Preempted as stop:
            return stop
    return None


def _is_done(run: Run) -> bool:
    """Whether the run has ended, or stops for now."""
    progress = run.current.progress
    validates_next = run.data.ends_epoch(progress.examples_in_epoch)
    return has_ended(run.config, progress) or stops_for_now(run.config, progress, validates_next)


def _train_epoch(run: Run) -> bool:
    """Trains for the rest of the current epoch or to a stop, one optimizer update at a time.

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
            queued = run.queue_step(batch)
        if current.progress == run.began_at:
            run.events.record("compiled")
        # The next step is already queued, so that the device is never idle.
        run.finish_step()
        current.advance(queued)
        run.stop.set_unsaved_work(True)
        run.events.progress(current.progress.step, epoch)
        if current.progress.step == run.began_at.step + 1:
            run.finish_step()  # waits for it
            run.events.record("first_step")

        if current.progress.step % config.log_every_n_steps == 0:
            run.finish_step()
            assert current.finished is not None
            terms = {**run.task.absent_terms, **current.finished.metrics}
            row = train_row(current.progress, terms, *meter.read())
            run.log.write(row)
            run.line.update(row)
        saver.checkpoints.check()
        due_by_time = run.poll(save_requested=saver.due_by_time())
        save_is_due = due_by_time or saver.due_at_step(current.progress)
        stops = stops_for_now(config, current.progress)
        ends_epoch = run.data.ends_epoch(current.progress.examples_in_epoch)
        if (save_is_due or stops) and not ends_epoch:
            run.finish_step()
            run.save()
        if stops:
            break
    run.finish_step()
    return save_is_due


def _validate(run: Run) -> Row:
    """Validates at the end of an epoch, and advances the run to the next one.

    Raises:
        TrainingDivergedError: a measure is not finite, before the state is ranked or saved.
    """
    config, current = run.config, run.current
    batches = _until_stopped(run, run.data.eval_batches("validation"))
    measures = run.task.validate(run.evaluated(), batches)
    progress = current.progress.after_epoch()
    row = validation_row(measures, progress)
    check_measures(
        numbers(row),
        "validation",
        progress.step,
        f"{_where_to_continue(run)} lower learning_rate or gradient_clip, raise warmup_steps, and "
        "start the same command again.",
    )
    run.log.write(row)
    value = row[config.checkpoint.monitor]
    current.progress = progress.after_validation(value, config.checkpoint.mode)
    if config.schedule == "plateau":
        _lower_on_plateau(run, value)
    run.line.say(f"epoch {row['epoch']} done  {run.task.describe_validation(row)}")
    return row


def _where_to_continue(run: Run) -> str:
    """Which checkpoint to continue from if the present state is useless, as a clause."""
    if run.current.progress.step > run.began_at.step:
        return "The newest checkpoint is from before that:"
    return "The run began at this step: move its checkpoint away,"  # stopped in this validation


def _lower_on_plateau(run: Run, value: float) -> None:
    """Passes the monitored value to the plateau schedule, and its learning rate to the state."""
    current = run.current
    before = current.progress.learning_rate_scale
    current.progress = after_plateau(run.config, current.progress, value)
    scale = current.progress.learning_rate_scale
    if scale != before:
        scales = run.parallel.put(run.healer.scale(scale, current.progress.step))
        current.state = current.state.replace(learning_rate_scale=scales)


def _until_stopped(run: Run, batches: Iterable[Batch]) -> Iterator[Batch]:
    """The batches, until a process receives a signal to stop."""
    for batch in batches:
        run.poll()
        yield batch


def _leave_untested(run: Run) -> Row:
    """Closes the files of a run that stops for now, as after a request to stop."""
    run.saver.checkpoints.close()
    run.log.close()
    return {}


def _test(run: Run) -> Row:
    """Evaluates the best checkpoint on the test split, and draws the report."""
    current, log, checkpoints = run.current, run.log, run.saver.checkpoints
    run.events.phase("test")
    state, tested_step = run.saver.best_state(run.template, run.evaluated())
    measures, write_report = run.task.test(state)
    row = test_row(measures, current.progress, tested_step)
    advice = "Train the model with a lower learning_rate or gradient_clip."
    check_measures(numbers(row), "test", tested_step, advice)
    log.write(row)
    log.sync()
    checkpoints.end(current.progress, tested_step)  # may remove the last one
    checkpoints.close()
    log.close()
    if processes.is_first():
        report = run.workdir / "report.png"
        run.events.record("tested")
        seconds = recorded_seconds(run.workdir / EVENTS_FILE)
        write_report(report, read_rows(run.workdir / "metrics.jsonl"), seconds)
        end_chain(run.workdir, current.progress.step)
        lines = [run.task.describe_test(row), f"report    {run.shown}/report.png"]
        lines += [f"healed    {story}" for story in [run.healer.tell()] if story]
        print("\n".join(lines), flush=True)
    return row
