"""The rows of a run: each once, on the disk before the checkpoint, never lost without a word."""

import contextlib
import json
import os
import shutil
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import ml_collections
import numpy as np
import pytest
from helpers.event_files import points

from clac_jax.distributed.workdir import HeldFolder, Workdir
from clac_jax.errors import LostWorkdirError, MovedMetricsError, WorkdirError
from clac_jax.reporting.figures import write_property_report, write_report
from clac_jax.reporting.run_log import MAX_LINE, MetricsFile, RunLog, read_rows
from clac_jax.reporting.trackers import TensorBoard, WeightsAndBiases


def rows(*steps):
    return [{"split": "train", "step": step} for step in steps]


def write(path, step, new):
    file = MetricsFile(path, step)
    for row in new:
        file.write(row)
    file.close()


def test_a_resumed_file_has_each_step_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, rows(1, 2, 3, 4))
    write(path, 2, rows(3, 4, 5))
    assert read_rows(path) == rows(1, 2, 3, 4, 5)


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, 0, rows(1, 2))
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"split": "tra')
    write(path, 2, rows(3))
    assert read_rows(path) == rows(1, 2, 3)


def test_a_damaged_line_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"split": "train", "step": 1}\noops\n')
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl, line 2 is not JSON"):
        MetricsFile(path, 1)


def test_a_full_disk_is_told(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.close()
    path.unlink()
    path.symlink_to("/dev/full")
    file._file, file._size = open(path, "w", encoding="utf-8"), 0  # noqa: SIM115 (closed below)
    with pytest.raises(WorkdirError, match="No space left on device"):
        file.write({"split": "train", "step": 1})
    with contextlib.suppress(OSError):  # the row is still in its buffer
        file.close()


BAD_LINES = {
    "a list": b"[1, 2]",
    "a number": b"3",
    "null": b"null",
    "no step": b'{"split": "train"}',
    "no split": b'{"step": 3}',
    "a split of another program": b'{"split": "dev", "step": 3}',
    "a split that is a list": b'{"split": [], "step": 3}',
    "a step that is text": b'{"split": "train", "step": "3"}',
    "a step that is NaN": b'{"split": "train", "step": NaN}',
    "a step that is a fraction": b'{"split": "train", "step": 3.5}',
    "a step that is true": b'{"split": "train", "step": true}',
    "a negative step": b'{"split": "train", "step": -1}',
    "a step beyond all": b'{"split": "train", "step": 1' + b"0" * 30 + b"}",
    "a number of 5,000 digits": b'{"split": "train", "step": ' + b"9" * 5000 + b"}",
    "an epoch that is text": b'{"split": "val", "step": 3, "epoch": "x"}',
    "not UTF-8": b'{"split": "train\xff", "step": 3}',
    "UTF-16": '{"split": "train", "step": 3}'.encode("utf-16-le"),
    "deep nesting": b"[" * 100_000,
    "zeros": bytes(200),
    "empty": b"",
    "a line without an end": b"x" * (MAX_LINE + 5),
}


@pytest.mark.parametrize("line", BAD_LINES.values(), ids=BAD_LINES)
def test_a_line_that_is_not_a_row_is_named(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    content = b'{"split": "train", "step": 1}\n' + line + b'\n{"split": "val", "step": 1}\n'
    path.write_bytes(content)
    with pytest.raises(WorkdirError, match=r"metrics\.jsonl, line 2 is .*Fix or remove") as error:
        MetricsFile(path, 1)
    assert len(str(error.value)) < 300
    assert path.read_bytes() == content, "nothing is lost"


def test_what_is_in_the_place_of_the_file_is_named(tmp_path):
    for make in (os.mkdir, os.mkfifo):
        make(tmp_path / "metrics.jsonl")
        with pytest.raises(WorkdirError, match="is not a file"):
            MetricsFile(tmp_path / "metrics.jsonl", 1)
        os.rename(tmp_path / "metrics.jsonl", tmp_path / make.__name__)


def test_rows_of_a_run_without_checkpoints_are_kept_under_another_name(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    for number in (1, 2):
        file = MetricsFile(path, 0, resumed=False)
        file.write({"split": "train", "step": number})
        file.close()
    assert read_rows(path) == rows(2)
    assert read_rows(tmp_path / "metrics-1.jsonl") == rows(1)
    assert "kept in metrics-1.jsonl" in capsys.readouterr().err
    path.write_bytes(b"not rows at all")
    MetricsFile(path, 0, resumed=False).close()
    assert (tmp_path / "metrics-2.jsonl").read_bytes() == b"not rows at all"
    capsys.readouterr()
    MetricsFile(path, 0, resumed=False).close()  # it holds no row yet
    assert capsys.readouterr().err == ""


def test_missing_rows_are_said(tmp_path, capsys):
    MetricsFile(tmp_path / "metrics.jsonl", 7).close()
    assert "the rows up to step 7 are missing" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_a_file_taken_away_during_the_run_is_written_again(tmp_path, how):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write(rows(1)[0])
    path.unlink() if how == "removed" else path.rename(tmp_path / "mine")
    if how == "replaced":
        path.write_text("something else")
    with pytest.raises(MovedMetricsError, match="written there again") as error:
        file.write(rows(2)[0])
    assert not error.value.spoils_state, "a checkpoint of this moment fits the rows"
    assert read_rows(path) == rows(1, 2)
    file.sync()  # for that checkpoint
    if how == "replaced":
        assert (tmp_path / "metrics-1.jsonl").read_text() == "something else"
    path.unlink()
    with pytest.raises(MovedMetricsError):
        file.sync()
    assert read_rows(path) == rows(1, 2)
    file.close()


def test_rows_and_syncs_of_two_threads_do_not_disturb_each_other(tmp_path):
    """A save syncs the rows beside the run that writes more of them."""
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    stop = threading.Event()

    def sync():
        while not stop.is_set():
            file.sync()

    with ThreadPoolExecutor(2) as pool:
        saves = [pool.submit(sync) for _ in range(2)]
        for row in rows(*range(1, 1000)):
            file.write(row)
        stop.set()
        for save in saves:
            save.result()
    file.close()
    assert read_rows(tmp_path / "metrics.jsonl") == rows(*range(1, 1000))


def test_a_file_cut_short_is_said(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write(rows(1)[0])
    os.truncate(path, 0)
    with pytest.raises(MovedMetricsError, match="cut short"):
        file.write(rows(2)[0])
    file.close()
    assert read_rows(path) == rows(2)


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
            assert not error.value.spoils_state
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
        assert not error.value.spoils_state
        assert not workdir.exists(), "nothing is made in its place"
        log.sync()
        log.close()
    last = 2 if act == "write" else 1
    assert [row["step"] for row in read_rows(tmp_path / "moved" / "metrics.jsonl")][-1] == last


def test_a_workdir_that_is_gone_is_said(tmp_path):
    with Workdir(tmp_path / "run") as workdir:
        held = HeldFolder(workdir)
        held.check()
        (workdir / ".lock").unlink()
        workdir.rmdir()
        with pytest.raises(LostWorkdirError, match="moved or removed") as error:
            held.check()
        assert error.value.spoils_state and error.value.moved_to is None
        held.close()


def test_each_point_of_tensorboard_is_in_its_file_at_once(tmp_path):
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


def test_a_tensorboard_folder_that_is_removed_is_begun_again(tmp_path, capsys):
    board = TensorBoard(tmp_path / "tensorboard", 0)
    board.write({"split": "train", "step": 1, "loss": 1.0})
    shutil.rmtree(tmp_path / "tensorboard")
    board.sync()
    assert "was removed while the run was writing to it" in capsys.readouterr().err
    board.write({"split": "train", "step": 2, "loss": 2.0})
    board.close()
    assert points(tmp_path / "tensorboard") == {("train/loss", 2): 2.0}


def test_a_file_in_the_place_of_tensorboards_folder_is_named(tmp_path):
    (tmp_path / "tensorboard").write_text("x")
    with pytest.raises(WorkdirError, match=r"tensorboard: .*file is in the place of a folder"):
        TensorBoard(tmp_path / "tensorboard", 0)


class FakeRun:
    """A run of W&B as the service keeps it: rows whose step goes back are dropped."""

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
    """A module `wandb` whose runs live on by their ids; `runs` has them."""
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


def test_a_report_is_drawn_of_the_rows_that_are_there(tmp_path):
    some = [{"split": "val", "step": 8}, {"split": "train", "step": 1, "loss": "x", "epoch": 0}]
    test = {"split": "test", "step": 8, "pool_size": 4} | {
        f"{direction}_top{k}{suffix}": 0.5
        for direction in ("text_to_crystal", "crystal_to_text")
        for k in (1, 3, 10)
        for suffix in ("", "_no_formula")
    }
    write_report(tmp_path / "report.png", [*some, test], np.zeros((4, 4)))
    numbers = np.arange(4.0)
    write_property_report(
        tmp_path / "property.png", some, name="band gap", predicted=numbers, labels=numbers
    )
    assert {path.name for path in tmp_path.iterdir()} == {"report.png", "property.png"}


def test_rows_are_json_objects_one_per_line(tmp_path):
    write(tmp_path / "metrics.jsonl", 0, rows(1, 2))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
