"""Mistakes of a user: one clear message, a non-zero exit code, nothing half written."""

import pytest
from helpers.user_tables import load_all, row, write

from clac_jax.errors import EXIT_USER_ERROR


def refused(done, *words):
    assert done.returncode == EXIT_USER_ERROR, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in message
    return True


def test_misspelt_key(run, tmp_path):
    done = run(tmp_path / "run", "--config.max_epoch=3")
    assert refused(done, 'Did you mean "max_epochs"')
    assert not (tmp_path / "run").exists()


def test_renamed_key(run, tmp_path):
    done = run(tmp_path / "run", "--config.graph_encoder.graph_cutoff=7")
    assert refused(done, 'is called "graph_encoder.cutoff" since version 0.2.0')
    assert not (tmp_path / "run").exists()


def test_batch_larger_than_the_split(run, tmp_path):
    done = run(tmp_path / "run", "--config.batch_size=64", "--config.dataset.max_examples=32")
    assert refused(done, "64", "32")


def test_workdir_is_a_file(run, tmp_path):
    (tmp_path / "run").write_text("mine")
    assert refused(run(tmp_path / "run"), "is a file")
    assert (tmp_path / "run").read_text() == "mine"


def test_workdir_cannot_be_written(run):
    assert refused(run("/proc/run"), "/proc/run")


def test_loss_that_turns_nan(run, tmp_path):
    done = run(
        tmp_path / "run",
        "--config.learning_rate=1e30",
        "--config.gradient_clip=0.0",
        "--config.graph_encoder.name=composition",  # compiles fastest
    )
    assert refused(done, "At step", "learning_rate")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize("flag", ["--config.graph_encoder.name=pain", "--config.batch_size=1"])
def test_values(run, tmp_path, flag):
    assert refused(run(tmp_path / "run", flag), flag.split("=")[0].removeprefix("--config."))


def test_missing_data(run, tmp_path):
    done = run(
        tmp_path / "run",
        "--config.dataset.name=gpt_narratives",
        f"--config.dataset.path={tmp_path / 'nothing.parquet'}",
    )
    assert refused(done, "nothing.parquet")


def test_prepared_data_that_are_damaged(run, tmp_path):
    table = write(tmp_path / "t.jsonl", [row(k) for k in range(40)])
    load_all(table, tmp_path / "data")
    (file,) = (tmp_path / "data").rglob("*-test.array_record*")
    with open(file, "r+b") as handle:
        handle.seek(-100, 2)
        handle.write(b"damage")
    done = run(
        tmp_path / "run",
        "--config.dataset.name=gpt_narratives",
        f"--config.dataset.path={table}",
        f"--config.dataset.data_dir={tmp_path / 'data'}",
    )
    assert refused(done, file.name, "is damaged", "Delete that folder")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()  # not hours later, at the test
