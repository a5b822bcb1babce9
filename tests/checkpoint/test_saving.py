"""A run that has lost a process can still save an intact state of its current position."""

import os
import time

import jax
import numpy as np
import pytest
from helpers.memory_store import Memory, MemoryStore
from helpers.states import make_config, make_state, shapes_of

from clac_jax.bucket.uploader import UploadError
from clac_jax.checkpoint import manager
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.checkpoint.saving import Saver
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.checkpoint.writer import CheckpointWriter, NoCheckpoints
from clac_jax.config.schema import default_config
from clac_jax.distributed import processes
from clac_jax.distributed.lost_process import LostProcessError
from clac_jax.distributed.preemption import Preempted
from clac_jax.distributed.supervisor_pipe import SUPERVISED, read_report
from clac_jax.distributed.watchdog import SAVE, STEP, Watchdog
from clac_jax.reporting.run_log import SilentLog
from clac_jax.stores.errors import StoreError, UnavailableError
from clac_jax.training.parallel import Pmap
from clac_jax.training.progress import RunProgress

AT_STEP_1 = RunProgress(step=1, examples_in_epoch=4, examples_seen=4)


@pytest.fixture
def saver(tmp_path):
    config = make_config()
    shapes = shapes_of({k: np.asarray(v) for k, v in to_arrays(make_state()).items()})
    result = Saver(Pmap(), Checkpoints(tmp_path, config, shapes), SilentLog(), config.checkpoint)
    yield result
    result.checkpoints.close()


def test_a_state_between_steps_is_saved(saver, tmp_path):
    state = Pmap().put(make_state())
    assert saver.save_without_others(state, AT_STEP_1) == "The newest checkpoint is of step 1."
    assert (tmp_path / "checkpoints" / "1" / "files.json").is_file()
    assert saver.save_without_others(state, AT_STEP_1) == "The newest checkpoint is of step 1."


def taken_by_a_step(state):
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    return state


def at_a_different_step(state):
    return state.replace(step=state.step + 1)


@pytest.mark.parametrize("damage", [taken_by_a_step, at_a_different_step])
def test_a_state_that_is_gone_or_not_of_the_position_is_not(saver, tmp_path, damage):
    state = damage(Pmap().put(make_state()))
    assert saver.save_without_others(state, AT_STEP_1) == "There is no checkpoint yet."
    assert not (tmp_path / "checkpoints" / "1").exists()


def test_a_save_that_waits_for_the_one_before_is_not_a_hang(tmp_path, monkeypatch):
    """To a slow disk: the one before is watched, by what such saves have taken."""
    options = default_config().watchdog
    options.floor_seconds, options.first_seconds = 0.3, 60.0
    config, hangs = make_config(), []
    shapes = shapes_of({k: np.asarray(v) for k, v in to_arrays(make_state()).items()})
    checkpoints = Checkpoints(tmp_path, config, shapes)
    write = checkpoints._save
    monkeypatch.setattr(checkpoints, "_save", lambda *args: time.sleep(1.2) or write(*args))
    with Watchdog(options, hangs.append) as watchdog:
        with watchdog.watching(SAVE):  # others have taken no time
            pass
        saver = Saver(Pmap(), checkpoints, SilentLog(), config.checkpoint, watchdog)
        state = Pmap().put(make_state())
        saver.save(state, AT_STEP_1)
        with watchdog.watching(STEP):
            pass
        with watchdog.watching(STEP):  # as in the loop that a signal has ended
            saver.save(state, RunProgress(step=2))
            saver.save_before_leaving(state, RunProgress(step=2), Preempted("SIGTERM"))
    checkpoints.close()
    assert hangs == []


def test_the_save_under_way_is_ended(saver, tmp_path):
    state = Pmap().put(make_state())
    saver.save(state, AT_STEP_1)
    taken_by_a_step(state)
    newest = saver.save_without_others(state, AT_STEP_1.after_step(4))
    assert newest == "The newest checkpoint is of step 1."


@pytest.mark.parametrize("reason, code", [(UnavailableError, 1), (StoreError, 2)])
def test_a_save_that_does_not_get_to_the_bucket_is_an_error(
    saver, tmp_path, monkeypatch, reason, code
):
    """Also if the program was asked to stop: 75 would say that everything is in the bucket."""
    store = MemoryStore(Memory())

    def fail():
        raise UploadError(store, tmp_path, reason("The store is out of reach."))

    monkeypatch.setattr(saver.checkpoints, "drain", fail)
    with pytest.raises(UploadError, match=f"out of reach. It is in {tmp_path}") as error:
        saver.save_without_others(Pmap().put(make_state()), AT_STEP_1)
    assert error.value.exit_code == code


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_run_that_is_asked_to_stop_does_not_say_saved_when_it_is_not(
    tmp_path, monkeypatch, on_failure
):
    config = make_config(retries=0, on_failure=on_failure)
    shapes = shapes_of({k: np.asarray(v) for k, v in to_arrays(make_state()).items()})
    saver = Saver(Pmap(), Checkpoints(tmp_path, config, shapes), SilentLog(), config.checkpoint)

    def fail(folder):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(manager, "write_manifest", fail)
    state = Pmap().put(make_state())
    with pytest.raises(CheckpointError, match="Cannot save step 1"):
        saver.save_before_leaving(state, AT_STEP_1, Preempted("SIGTERM"))
    saver.checkpoints.close()


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_save_that_fails_is_an_error_without_the_others_as_well(
    tmp_path, monkeypatch, on_failure
):
    """Also if the other process was asked to stop: 75 would say that nothing is missing."""
    config = make_config(retries=0, on_failure=on_failure)
    shapes = shapes_of({k: np.asarray(v) for k, v in to_arrays(make_state()).items()})
    saver = Saver(Pmap(), Checkpoints(tmp_path, config, shapes), SilentLog(), config.checkpoint)

    def fail(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manager, "write_manifest", fail)
    with pytest.raises(LostProcessError, match=r"Cannot save step 1.*There is no checkpoint yet."):
        saver.save_without_others(Pmap().put(make_state()), AT_STEP_1)
    saver.checkpoints.close()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_process_that_is_not_the_first_reports_its_saves_to_its_supervisor(monkeypatch, is_first):
    monkeypatch.setattr(processes, "is_first", lambda: is_first)
    reader, writer = os.pipe()
    facts = os.fstat(writer)
    monkeypatch.setenv(SUPERVISED, f"{writer}:{facts.st_dev}:{facts.st_ino}")
    saver = Saver(Pmap(), NoCheckpoints(), SilentLog(), make_config().checkpoint)
    saver.save(Pmap().put(make_state()), AT_STEP_1)
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert read_report(pipe.read()) == (False, -1 if is_first else 1)


def test_every_other_process_takes_the_same_steps_and_writes_nothing(tmp_path):
    config = make_config(every_n_minutes=0.0)
    saver = Saver(Pmap(), NoCheckpoints(), SilentLog(), config.checkpoint)
    state = Pmap().put(make_state())
    saver.save(state, AT_STEP_1, {"val_loss": 1.0})
    saver.save_before_leaving(state, AT_STEP_1, Preempted("SIGTERM"))
    assert saver.save_without_others(state, AT_STEP_1) == "", "the first process says it"
    saver.checkpoints.end(AT_STEP_1, tested_step=1)
    saver.checkpoints.close()
    assert list(tmp_path.iterdir()) == []
    # Before any checkpoint's step, as all processes test the one that the first process chose.
    assert saver.checkpoints.read_best({}, last_step=7) == (0, {})


def test_both_kinds_of_checkpoints_answer_everything_that_a_run_asks():
    asked = {name for name in vars(CheckpointWriter) if not name.startswith("_")}
    assert {"save", "saved", "read_best"} <= asked
    assert asked <= set(dir(NoCheckpoints))
    assert asked - {"saved"} <= set(dir(Checkpoints))
