"""What a run that has lost a process can still save: an intact state of the position it is at."""

import jax
import numpy as np
import pytest
from helpers.states import make_config, make_state, shapes_of

from clac_jax.checkpoint import manager
from clac_jax.checkpoint.manager import CheckpointError, Checkpoints
from clac_jax.checkpoint.saving import Saver
from clac_jax.checkpoint.tree import to_arrays
from clac_jax.distributed.preemption import Preempted
from clac_jax.reporting.run_log import SilentLog
from clac_jax.training.parallel import Pmap
from clac_jax.training.progress import RunProgress

AT_STEP_1 = RunProgress(step=1, examples_in_epoch=4, examples_seen=4)


@pytest.fixture
def saver(tmp_path):
    config = make_config()
    shapes = shapes_of({k: np.asarray(v) for k, v in to_arrays(make_state()).items()})
    result = Saver(Pmap(), Checkpoints(tmp_path, config, shapes), SilentLog(), config.checkpoint)
    yield result
    result.close()


def test_a_state_between_steps_is_saved(saver, tmp_path):
    state = Pmap().put(make_state())
    assert saver.save_what_is_there(state, AT_STEP_1) == "The newest checkpoint is of step 1."
    assert (tmp_path / "checkpoints" / "1" / "files.json").is_file()
    assert saver.save_what_is_there(state, AT_STEP_1) == "The newest checkpoint is of step 1."


def taken_by_a_step(state):
    for leaf in jax.tree.leaves(state):
        leaf.delete()
    return state


def of_another_step(state):
    return state.replace(step=state.step + 1)


@pytest.mark.parametrize("spoil", [taken_by_a_step, of_another_step])
def test_a_state_that_is_gone_or_not_of_the_position_is_not(saver, tmp_path, spoil):
    state = spoil(Pmap().put(make_state()))
    assert saver.save_what_is_there(state, AT_STEP_1) == "There is no checkpoint yet."
    assert not (tmp_path / "checkpoints" / "1").exists()


def test_the_save_under_way_is_ended(saver, tmp_path):
    state = Pmap().put(make_state())
    saver.save(state, AT_STEP_1)
    taken_by_a_step(state)
    told = saver.save_what_is_there(state, AT_STEP_1.after_step(4))
    assert told == "The newest checkpoint is of step 1."


@pytest.mark.parametrize("on_failure", ["stop", "continue"])
def test_a_run_that_is_told_to_stop_does_not_say_saved_when_it_is_not(
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
    saver.close()
