"""The folder in which a training works, by its flags, and its newest checkpoint."""

import pytest

from clac_jax.bucket.mirror import mirror_folder
from clac_jax.supervision.progress import folder_of, newest_step


@pytest.mark.parametrize(
    ("flags", "folder"),
    [
        (["--config=base", "--workdir=a/b"], "a/b"),
        (["--workdir", "a", "--config", "base"], "a"),
        (["-workdir=a", "--workdir=b=c"], "b=c"),
        (["--config=base", "--config.workdirs=x"], None),
        (["--workdir"], None),
        (["--workdir=http://host/a"], None),
        (["--workdir=s3://"], None),
        ([], None),
    ],
)
def test_the_folder_is_that_of_the_last_flag(tmp_path, monkeypatch, flags, folder):
    monkeypatch.chdir(tmp_path)
    found = folder_of(flags)
    assert found == folder if folder is None else found.resolve() == tmp_path / folder


def test_for_a_workdir_in_a_bucket_it_is_the_local_copy(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path))
    assert folder_of(["--workdir=S3://bucket/run/"]) == mirror_folder("s3://bucket/run", "")
    flags = ["--workdir=gs://bucket/run", f"--config.bucket.scratch={tmp_path / 'fast'}"]
    assert folder_of(flags).parent == tmp_path / "fast"


def test_the_newest_step_is_that_of_a_complete_checkpoint(tmp_path):
    assert newest_step(tmp_path) == -1
    for name in ("8", "16", "24", "damaged", "being_deleted"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "24.unfinished").touch()
    (tmp_path / "checkpoints" / "32.unfinished").touch()
    assert newest_step(tmp_path) == 16


def test_it_is_unknown_where_there_is_no_folder(tmp_path):
    assert newest_step(None) is newest_step(tmp_path / "missing") is None


def test_it_is_unknown_where_the_folder_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "checkpoints").mkdir()

    def listdir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", listdir)
    assert newest_step(tmp_path) is None
