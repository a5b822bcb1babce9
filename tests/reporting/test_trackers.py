"""TensorBoard and Weights & Biases: each row once, and a message if they refuse one."""

import shutil
import sys
import types

import ml_collections
import pytest
from helpers.event_files import points

from clac_jax.errors import WorkdirError
from clac_jax.reporting.trackers import TensorBoard, WeightsAndBiases


def a_config(**logging):
    options = {"tensorboard": False, "wandb": False, "wandb_project": "p"} | logging
    return ml_collections.ConfigDict({"logging": options})


def test_each_point_of_tensorboard_is_in_its_file_immediately(tmp_path):
    board = TensorBoard(tmp_path / "tensorboard", 0)
    for step in (1, 2, 3):
        board.write({"split": "train", "step": step, "loss": float(step), "note": "text"})
        assert points(tmp_path / "tensorboard")["train/loss", step] == step
    board.sync()
    again = TensorBoard(tmp_path / "tensorboard", 2)  # resumed, in the same second
    again.write({"split": "val", "step": 3, "val_loss": 9.0})
    again.close()
    board.close()
    assert points(tmp_path / "tensorboard") == {
        ("train/loss", 1): 1.0,
        ("train/loss", 2): 2.0,
        ("val/val_loss", 3): 9.0,
    }


def test_a_tensorboard_folder_that_is_removed_is_started_again(tmp_path, capsys):
    board = TensorBoard(tmp_path / "tensorboard", 0)
    board.write({"split": "train", "step": 1, "loss": 1.0})
    shutil.rmtree(tmp_path / "tensorboard")
    board.sync()
    assert "was removed while the run was writing to it" in capsys.readouterr().err
    board.write({"split": "train", "step": 2, "loss": 2.0})
    board.close()
    assert points(tmp_path / "tensorboard") == {("train/loss", 2): 2.0}


def test_a_file_instead_of_tensorboards_folder_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("x")
    with pytest.raises(WorkdirError, match=r"tensorboard: .*file has the name of a folder"):
        TensorBoard(tmp_path / "tensorboard", 0)


class FakeRun:
    """A W&B run as stored by the service: rows whose step decreases are dropped."""

    def __init__(self):
        self.rows, self.step, self.step_metrics = [], -1, {}

    def define_metric(self, name, step_metric=None):
        self.step_metrics[name] = step_metric

    def log(self, values, step=None):
        step = self.step + 1 if step is None else step
        if step >= self.step:
            self.step = step
            self.rows.append(values)

    def finish(self):
        pass


@pytest.fixture
def wandb(monkeypatch):
    """A fake module `wandb` whose runs persist by id; `runs` contains them."""
    module = types.ModuleType("wandb")
    module.runs, module.names = {}, []

    def init(*, id, name, resume, **_):
        assert resume == "allow"
        module.names.append(name)
        return module.runs.setdefault(id, FakeRun())

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_workdirs_of_one_name_are_two_runs_of_wandb(tmp_path, wandb):
    for parent in ("a", "b", "a"):
        (tmp_path / parent / "exp").mkdir(parents=True, exist_ok=True)
        WeightsAndBiases(tmp_path / parent / "exp", a_config()).close()
    assert len(wandb.runs) == 2
    assert set(wandb.names) == {"exp"}
    assert (tmp_path / "a" / "exp" / "wandb_id").read_text().strip() in wandb.runs


def test_rows_after_a_resume_are_not_dropped_by_wandb(tmp_path, wandb):
    for first in (1, 3):  # killed at step 6, resumed from step 2
        tracker = WeightsAndBiases(tmp_path, a_config())
        for step in range(first, 7):
            tracker.write({"split": "train", "step": step, "loss": float(first)})
        tracker.close()
    (run,) = wandb.runs.values()
    assert [row["step"] for row in run.rows] == [1, 2, 3, 4, 5, 6, 3, 4, 5, 6]
    assert run.step_metrics["*"] == "step"


def test_a_service_that_refuses_is_one_sentence(tmp_path, wandb):
    def init(**_):
        raise RuntimeError("api_key not configured\n(no-tty)")

    wandb.init = init
    with pytest.raises(WorkdirError, match=r"started: api_key not configured \(no-tty\)"):
        WeightsAndBiases(tmp_path, a_config())
