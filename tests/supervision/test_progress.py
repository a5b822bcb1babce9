"""The workdir in the flags of a training, and its newest checkpoint."""

import pytest

from clac_jax.supervision.progress import newest_step, workdir_of


@pytest.mark.parametrize(
    ("flags", "workdir"),
    [
        (["--config=base", "--workdir=a/b"], "a/b"),
        (["--workdir", "a", "--config", "base"], "a"),
        (["-workdir=a", "--workdir=b=c"], "b=c"),
        (["--config=base", "--config.workdirs=x"], ""),
        (["--workdir"], ""),
        ([], ""),
    ],
)
def test_the_workdir_is_that_of_the_last_flag(flags, workdir):
    assert workdir_of(flags) == workdir


def test_the_newest_step_is_that_of_a_complete_checkpoint(tmp_path):
    assert newest_step(str(tmp_path)) == -1
    for name in ("8", "16", "24", "damaged", "being_deleted"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "24.unfinished").touch()
    (tmp_path / "checkpoints" / "32.unfinished").touch()
    assert newest_step(str(tmp_path)) == 16


@pytest.mark.parametrize("workdir", ["", "s3://bucket/run"])
def test_it_is_unknown_where_there_is_no_local_workdir(workdir):
    assert newest_step(workdir) is None


def test_it_is_unknown_where_the_folder_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()

    def listdir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", listdir)
    assert newest_step(str(tmp_path)) is None
