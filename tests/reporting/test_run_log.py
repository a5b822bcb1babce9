"""The log of a run whose workdir is moved or removed while it writes."""

import ml_collections
import pytest

from clac_jax.distributed.workdir import HeldFolder, Workdir
from clac_jax.errors import LostWorkdirError
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.reporting.run_log import RunLog


def a_config(**logging):
    options = {"tensorboard": False, "wandb": False, "wandb_project": "p"} | logging
    return ml_collections.ConfigDict({"logging": options})


def test_a_workdir_that_is_moved_is_found_and_the_row_is_in_it(tmp_path):
    with Workdir(tmp_path / "run") as workdir:
        log = RunLog(workdir, a_config(tensorboard=True), 0)
        workdir.rename(tmp_path / "moved")
        with Workdir(tmp_path / "run"):  # a second run at the old path
            with pytest.raises(LostWorkdirError, match="that of another run") as error:
                log.write({"split": "train", "step": 1, "loss": 1.0})
            assert error.value.moved_to == tmp_path / "moved"
            assert not error.value.prevents_saving
            log.sync()  # for the checkpoint that is saved there
            log.close()
        assert not (tmp_path / "run" / "metrics.jsonl").exists()
        assert [row["step"] for row in read_rows(tmp_path / "moved" / "metrics.jsonl")] == [1]


@pytest.mark.parametrize("act", ["write", "sync"])
def test_a_workdir_moved_between_check_and_write_is_found_as_well(tmp_path, monkeypatch, act):
    check = HeldFolder.check
    with Workdir(tmp_path / "run") as workdir:
        log = RunLog(workdir, a_config(tensorboard=True), 0)
        log.write({"split": "train", "step": 1, "loss": 1.0})

        def check_then_move(held):
            check(held)
            if workdir.exists():
                workdir.rename(tmp_path / "moved")

        monkeypatch.setattr(HeldFolder, "check", check_then_move)
        with pytest.raises(LostWorkdirError, match="was moved or removed") as error:
            log.write({"split": "train", "step": 2, "loss": 1.0}) if act == "write" else log.sync()
        assert error.value.moved_to == tmp_path / "moved"
        assert not error.value.prevents_saving
        assert not workdir.exists(), "nothing is made in its place"
        log.sync()
        log.close()
    last = 2 if act == "write" else 1
    assert [row["step"] for row in read_rows(tmp_path / "moved" / "metrics.jsonl")][-1] == last


def test_a_workdir_that_is_gone_is_reported(tmp_path):
    with Workdir(tmp_path / "run") as workdir:
        held = HeldFolder(workdir)
        held.check()
        (workdir / ".lock").unlink()
        workdir.rmdir()
        with pytest.raises(LostWorkdirError, match="moved or removed") as error:
            held.check()
        assert error.value.prevents_saving and error.value.moved_to is None
        held.close()
