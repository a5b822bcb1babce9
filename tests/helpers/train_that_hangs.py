"""Trains the config file argv[1] in the workdir argv[2]; what argv[3] names hangs at step 7, once.

With argv[4:], flags of the processes: HOST:PORT, number of processes, number of this process. In
process argv[7] only, if given, the hang takes place.
"""

import contextlib
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.cli.console import protect_output
from clac_jax.cli.train import _train
from clac_jax.distributed.preemption import StopSignals
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.run import Run
from clac_jax.tasks import contrastive
from configs import saved

HANG_SECONDS = 600


def hang_in_cpp():
    """The main thread waits in C++, as for a collective whose other part never comes."""
    never = jax.jit(lambda x: jax.pure_callback(lambda y: time.sleep(HANG_SECONDS) or y, x, x))
    never(jnp.zeros(())).block_until_ready()


def hang_once(what, marker):
    """Replaces a part of the training by one that hangs at step 7, if there is no marker yet."""
    if marker.exists():
        return
    train_batches, finish_step = RunData.train_batches, Run.finish_step
    save, validate = Checkpoints._save, contrastive.Contrastive.validate

    def batches(self, epoch, start):
        for number, batch in enumerate(train_batches(self, epoch, start)):
            if epoch == 1 and number == 2:
                marker.touch()
                time.sleep(HANG_SECONDS)
            yield batch

    def check(self):
        if self.current.progress.step == 7:
            marker.touch()
            hang_in_cpp()
        finish_step(self)

    def save_slowly(self, arrays, info):
        if info.step == 7:
            marker.touch()
            time.sleep(HANG_SECONDS)  # as a file system in user space whose server is gone
        save(self, arrays, info)

    def validate_slowly(self, state, batches):
        if int(jax.device_get(state.step).reshape(-1)[0]) == 8:
            marker.touch()
            hang_in_cpp()
        return validate(self, state, batches)

    RunData.train_batches = batches if what == "data" else train_batches
    Run.finish_step = check if what == "step" else finish_step
    Checkpoints._save = save_slowly if what == "save" else save
    contrastive.Contrastive.validate = validate_slowly if what == "validation" else validate


if __name__ == "__main__":
    protect_output()
    config, workdir, what, *where = sys.argv[1:]
    config = saved.get_config(config)
    if where:
        config.distributed.coordinator_address = where[0]
        config.distributed.num_processes = int(where[1])
        config.distributed.process_id = int(where[2])
    if where[2:3] == where[3:4] or not where:
        hang_once(what, Path(f"{workdir}.has_hung"))
    with contextlib.ExitStack() as listening:
        _train(config, workdir, listening.enter_context(StopSignals()), listening)
