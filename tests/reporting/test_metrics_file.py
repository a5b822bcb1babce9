"""metrics.jsonl: each row once, on disk before the checkpoint, never lost silently."""

import contextlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clac_jax.errors import MovedMetricsError, WorkdirError
from clac_jax.reporting.metrics_file import MAX_LINE, MetricsFile, read_rows


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


def test_a_full_disk_is_reported(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.close()
    path.unlink()
    path.symlink_to("/dev/full")
    file._file._file, file._file._size = open(path, "wb"), 0  # noqa: SIM115 (closed below)
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


def test_a_folder_instead_of_the_file_is_named(tmp_path):
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
    assert not error.value.prevents_saving, "a checkpoint of this moment fits the rows"
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
    """A save syncs the rows while the run writes more of them."""
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


def test_a_truncated_file_is_reported(tmp_path):
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.write(rows(1)[0])
    os.truncate(path, 0)
    with pytest.raises(MovedMetricsError, match="cut short"):
        file.write(rows(2)[0])
    file.close()
    assert read_rows(path) == rows(2)


def test_rows_are_json_objects_one_per_line(tmp_path):
    write(tmp_path / "metrics.jsonl", 0, rows(1, 2))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
