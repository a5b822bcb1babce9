import contextlib

import pytest

from clac_jax.run_log import MetricsFile, WorkdirError, read_rows


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
    file = MetricsFile(tmp_path / "metrics.jsonl", 0)
    file.close()
    file._file = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 (closed below)
    with pytest.raises(WorkdirError, match="No space left on device"):
        file.write({"split": "train", "step": 1})
    with contextlib.suppress(OSError):  # the row is still in its buffer
        file.close()
