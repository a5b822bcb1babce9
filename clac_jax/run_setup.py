"""Sets up a run: data, model, optimizer, initial state, checkpoints and log."""

from __future__ import annotations

import functools
import secrets

import jax
import ml_collections
import numpy as np

from clac_jax.chain.chain_file import ChainFile
from clac_jax.chain.row_digests import write_row_digests
from clac_jax.checkpoint import resume
from clac_jax.checkpoint.changes import Present
from clac_jax.checkpoint.division import spans_processes
from clac_jax.checkpoint.lineage import Recorder, parent_of
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.part_writer import PartCheckpoints
from clac_jax.checkpoint.placed import check_placed
from clac_jax.checkpoint.saving import Saver
from clac_jax.checkpoint.writer import CheckpointWriter, NoCheckpoints
from clac_jax.config import schema as config_lib
from clac_jax.distributed import processes, program_facts
from clac_jax.distributed.sending import any_text
from clac_jax.distributed.share import share_of_process
from clac_jax.distributed.watchdog import Patient, Watch
from clac_jax.files.atomic import write_atomically
from clac_jax.healing.culprits import make_probe_step
from clac_jax.healing.guard import Guard, Way, local_devices
from clac_jax.healing.healer import Setting
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.journal.journal_file import START
from clac_jax.models.encoders import encoder_needs
from clac_jax.reporting import summary
from clac_jax.reporting.metrics_file import newest_row
from clac_jax.reporting.progress_line import ProgressLine, SilentLine
from clac_jax.reporting.run_log import RunLog, SilentLog
from clac_jax.reporting.start_facts import brief, start_facts
from clac_jax.run import Current, Run
from clac_jax.run_parts import make_parts
from clac_jax.session import Session
from clac_jax.stores.url import is_url
from clac_jax.tasks import make_task
from clac_jax.training.parallel import Parallel
from clac_jax.training.placement import make_parallel, other_devices
from clac_jax.training.schedules import make_schedule, timeline_of
from clac_jax.training.state_digests import StateDigests


def set_up(config: ml_collections.ConfigDict, session: Session) -> Run:
    """Opens the data, builds the model, and restores or initializes the state.

    All processes call it at the same time.

    Args:
        config: the run's config, complete and checked.
        session: the workdir, and who listens and watches.

    Raises:
        UserError: the data, the checkpoint or the workdir cannot be used.
    """
    place, events, watchdog = session.place, session.events, session.watchdog
    first, workdir = processes.is_first(), place.folder
    parallel = make_parallel(config)
    origin = resume.find_origin(config, workdir) if first else resume.Origin()

    # Data: from crystals and texts to batches.
    events.phase("data")
    with watchdog.unwatched():  # it may have to be built, for hours, here or in another process
        data = RunData(config, encoder_needs(config), share_of_process())
        fingerprints = {split: data.splits.fingerprint(split) for split in data.split_sizes}
        processes.agree("data", {f"the {each} split": text for each, text in fingerprints.items()})
    data.on_eval_batch = watchdog.alive
    num_examples = data.split_sizes["train"]

    # Model and optimizer: shapes of their arrays, before any array is allocated or read.
    task = make_task(config, data, parallel)
    example = data.example_batch()
    events.phase("start")
    parts = make_parts(config, task, example, parallel)
    shapes = parts.shapes
    processes.agree("model", program_facts.of_arrays(shapes))

    # Initial state: fresh, or from a checkpoint.
    events.phase("restore")
    now = Present(config, num_examples, fingerprints)
    # Downloads take as long as they take, and have time limits of their own.
    origins = [str(config.resume_from), *(each["from"] for each in config.restore.sources)]
    is_far = place.is_remote or any(map(is_url, origins))
    patient: Watch = Patient(watchdog) if is_far else watchdog
    with patient.watching("the restore"):
        origin = resume.shared_origin(origin, config, place.see, shapes)
        start = resume.in_all_processes(
            lambda: resume.begin(origin, workdir, now, shapes, parts.initialize), shapes
        )
    progress = start.progress
    reached = newest_row(workdir / "metrics.jsonl") if first and start.is_own else 0
    events.restored(progress.step, progress.epoch, reached)
    events.phase("start")
    timeline = timeline_of(config, num_examples, progress)
    schedule = make_schedule(config, timeline)
    template = parts.scheduled(schedule)

    recorded = config.journal.digest_every > 0
    digests = StateDigests(parallel, template)
    state = parts.placed(template, start.arrays)
    if recorded and start.digests:
        check_placed(start.source, start.digests, digests.fetch(digests.queue(state)), start.arrays)

    # Output: only in the first process, except for the parts of a sharded state.
    checkpoints: CheckpointWriter = NoCheckpoints()
    if not first and spans_processes(shapes):
        index = jax.process_index()
        checkpoints = PartCheckpoints(place.folder_of(index), config, shapes, index)
    log: RunLog | SilentLog = SilentLog()
    line: ProgressLine | SilentLine = SilentLine()
    if first:
        saved = Checkpoints(workdir, config, shapes, num_examples, start.damaged, fingerprints)
        checkpoints = place.followed(saved)
        validated, resumed = progress.examples_in_epoch == 0, bool(origin.own)
        log = RunLog(workdir, config, progress.step, validated, resumed)
        facts = start_facts(config)
        parent = parent_of(origin, progress)
        chain = ChainFile(workdir, parent, {"start": log.start, **brief(facts)}, resumed)
        saved.chain = Recorder(chain)
        log.keep(chain)
        log.record_event(START, progress.step, {**facts, "data": fingerprints})
        write_row_digests(
            workdir, {split: data.splits.row_digests(split) for split in fingerprints}
        )
        write_atomically(workdir / "config.json", config_lib.to_json(config))
        line = ProgressLine(timeline.total_steps, progress.step)
    of_saves: Watch = watchdog
    if spans_processes(shapes):
        names = any_text(secrets.token_hex(4) if first else "")
        checkpoints.share_saves(names, place.exchange())
        if place.is_remote:  # its parts are uploaded before a save ends
            of_saves = Patient(watchdog)

    # Healing: what it has changed so far, and the step that it watches.
    healer, num_done = session.healer, progress.step
    probe = parallel.evaluate(make_probe_step(parts.trainable, task.loss))
    setting = Setting(progress, data, fingerprints["train"], parallel, probe)
    healer.begin(setting, log.take_journal(), functools.partial(log.record_event, step=num_done))

    def way(parallel: Parallel) -> Way:
        step = parts.train_step(schedule, parallel)
        return Way(parallel, step, local_devices(parallel.local_devices))

    usual, other = way(parallel), other_devices(parallel)
    guard = Guard(usual.step, parallel, num_done)
    train_step = healer.guard(guard, lambda: (usual, usual if other is parallel else way(other)))
    scale = healer.scale(progress.learning_rate_scale, num_done)
    state = state.replace(learning_rate_scale=parallel.put(scale))

    if first:
        rate = float(np.asarray(schedule(progress.step)))
        lines = [
            *summary.describe_program(),
            *summary.describe_data(config, data.split_sizes, data.splits.num_unlabelled),
            *summary.describe_parameters(parts.params, parts.trainable),
            *summary.describe_steps(config, timeline, data.describe_shapes()),
            f"workdir   {place.shown}",
            *summary.describe_start(config, start, rate, float(scale)),
        ]
        print("\n".join(lines).replace(str(workdir), place.shown), flush=True)

    return Run(
        config=config,
        workdir=workdir,
        shown=place.shown,
        data=data,
        task=task,
        parallel=parallel,
        train_step=train_step,
        state_digests=digests,
        template=template,
        saver=Saver(
            parallel,
            checkpoints,
            log,
            config.checkpoint,
            of_saves,
            digests.of if recorded else None,
        ),
        log=log,
        line=line,
        events=events,
        stop=session.stop,
        requests=processes.SharedRequests(),
        watchdog=watchdog,
        healer=healer,
        began_at=progress,
        is_own=start.is_own,
        current=Current(state, progress),
    )
