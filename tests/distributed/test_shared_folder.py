"""A workdir that each process must be able to write to."""

import pytest
from helpers.threads_as_processes import in_threads

from clac_jax.distributed import shared_folder
from clac_jax.distributed.shared_folder import check_shared
from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import WorkdirError


def outcomes(monkeypatch, folders):
    def check(index):
        try:
            check_shared(folders[index])
        except WorkdirError as error:
            return str(error)
        return "shared"

    return in_threads(monkeypatch, len(folders), check)


def test_one_folder_is_shared(tmp_path, monkeypatch):
    with Workdir(tmp_path) as folder:
        assert outcomes(monkeypatch, [folder, folder]) == ["shared", "shared"]


@pytest.mark.parametrize("there", ["another run's", "empty", "missing"])
def test_a_folder_of_a_disk_of_each_host_is_refused_by_all(tmp_path, monkeypatch, there):
    monkeypatch.setattr(shared_folder, "SECONDS", 0.2)
    other = tmp_path / "other"
    if there == "another run's":
        with Workdir(other):
            pass
    elif there == "empty":
        other.mkdir()
    with Workdir(tmp_path / "first") as folder:
        both = outcomes(monkeypatch, [folder, other])
    for message in both:
        assert "process 1 does not see the files of the first one" in message
        assert "Name a folder that all hosts share" in message


def test_a_folder_that_one_process_cannot_write_to_is_refused(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(shared_folder, "check_writable", refuse)
    with Workdir(tmp_path) as folder, pytest.raises(WorkdirError, match="Permission denied"):
        check_shared(folder)
