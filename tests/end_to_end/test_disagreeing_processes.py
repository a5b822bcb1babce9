"""Processes of one run that were started with different inputs: all stop and say why."""

import json
import os

import numpy as np
import pytest
from helpers.several_processes import ended, log_of
from helpers.user_tables import row as table_row
from helpers.user_tables import write

from clac_jax.errors import EXIT_USER_ERROR


@pytest.fixture
def table(tmp_path):
    """(host) -> a table of 40 rows on that host, the first with a host-specific length."""

    def build(host):
        rows = [table_row(k) for k in range(40)]
        rows[0]["atoms"] = json.dumps(json.loads(rows[0]["atoms"]) | {"lattice_mat": cell(host)})
        return write(tmp_path / f"table{host}.jsonl", rows)

    def cell(host):
        return (np.eye(3) * (4.1 + 0.1 * host)).tolist()

    return build


def test_input_that_one_process_cannot_use_ends_all(begin_processes, tmp_path):
    workdir = tmp_path / "wrong"
    running = begin_processes(workdir, differing={1: ("--config.dataset.data_dir=/proc/nowhere",)})
    assert ended(running, seconds=120) == [1, EXIT_USER_ERROR]
    assert log_of(workdir, 1).startswith("error: Cannot write the data set to /proc/nowhere")
    assert "ended: Cannot write the data set to /proc/nowhere" in log_of(workdir, 0)
    assert not (workdir / "checkpoints").exists() or not os.listdir(workdir / "checkpoints")


def test_another_config_in_one_process_is_named_by_all(begin_processes, tmp_path):
    workdir = tmp_path / "different"
    running = begin_processes(
        workdir, differing={1: ("--config.batch_size=8", "--config.max_epochs=9")}
    )
    assert ended(running, seconds=120) == [EXIT_USER_ERROR, EXIT_USER_ERROR]
    for index in (0, 1):
        (line,) = log_of(workdir, index).splitlines()
        assert line.startswith("error: Config key batch_size is 8 in process 1 and 4 in process 0.")
        assert "config key max_epochs" in line
    assert not workdir.exists()


def test_different_data_with_the_same_command_are_named_by_all(begin_processes, tmp_path, table):
    """Every host has the same number of rows, but one crystal differs."""
    workdir = tmp_path / "data"
    flags = ("--config.dataset.name=gpt_narratives",)
    paths = {index: (f"--config.dataset.path={table(index)}",) for index in (0, 1)}
    own = f"--config.dataset.data_dir={tmp_path / 'prepared'}"
    running = begin_processes(workdir, *flags, own, differing=paths)
    assert ended(running, seconds=120) == [EXIT_USER_ERROR, EXIT_USER_ERROR]
    for index in (0, 1):
        assert log_of(workdir, index).splitlines()[-1].startswith("error: The train split is ")
