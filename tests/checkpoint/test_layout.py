"""Any content of `checkpoints/` is read, skipped or named, never a traceback."""

import json
import os
import shutil
import zlib

import pytest
from etils import epath
from helpers.states import epochs, save_run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clac_jax.checkpoint import files
from clac_jax.checkpoint.files import (
    MANIFEST,
    DamagedCheckpointError,
    RemovedCheckpointError,
    UnreadableCheckpointError,
    check_files,
)
from clac_jax.checkpoint.layout import is_step, read_all, read_info, step_folders
from clac_jax.cli import main as cli
from clac_jax.errors import UserError


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("layout")
    save_run(workdir, epochs(0.5, 0.4))
    return epath.Path(workdir) / "checkpoints"


@pytest.fixture
def directory(original, tmp_path):
    shutil.copytree(original, tmp_path / "checkpoints")
    return epath.Path(tmp_path) / "checkpoints"


def reseal(folder, name, content):
    """Writes a file into a checkpoint and records its size and checksum."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = [len(content), zlib.crc32(content)]
    write_manifest(folder, manifest["files"])


def write_manifest(folder, files):
    crc = zlib.crc32(json.dumps(files, sort_keys=True).encode())
    (folder / MANIFEST).write_text(json.dumps({"crc32": crc, "files": files}))


@pytest.mark.parametrize("name", ["²", "007", "٣", "-1", "+1", "1e3", "1_0", " 8", "9" * 25])
def test_names_that_are_digits_and_no_steps_are_passed_over(directory, name):
    assert not is_step(name)
    (directory / name).mkdir()
    assert list(step_folders(directory)) == [10, 20]


def test_files_and_links_with_the_name_of_a_step_are_passed_over(directory):
    (directory / "99").write_text("x")
    os.symlink(directory / "98", directory / "98")
    os.symlink(directory / "nothing", directory / "97")
    os.mkfifo(directory / "96")
    assert list(step_folders(directory)) == [10, 20]
    assert read_all(directory)[1] == {}


def test_a_folder_of_nothing_is_a_damaged_checkpoint(directory):
    (directory / "30").mkdir()
    assert list(read_all(directory)[1]) == [30]


def test_a_checkpoint_in_the_folder_of_a_different_step_is_named(directory):
    (directory / "20").rename(directory / "25")
    (error,) = read_all(directory)[1].values()
    assert "that of step 20" in str(error)


MANIFESTS = {
    "brackets": "[" * 100_000,
    "objects": '{"a":' * 100_000,
    "empty": "",
    "not UTF-8": b"\xff\xfe",
    "a list": "[]",
    "a number": "3",
    "long number": '{"crc32": 0, "files": ' + "9" * 5000 + "}",
    "no files": '{"crc32": 0}',
    "files are a list": '{"crc32": 0, "files": [1]}',
}


@pytest.mark.parametrize("content", MANIFESTS.values(), ids=MANIFESTS)
def test_any_manifest_is_damage_and_no_traceback(directory, content):
    data = content if isinstance(content, bytes) else content.encode()
    (directory / "20" / MANIFEST).write_bytes(data)
    assert list(read_all(directory)[1]) == [20]


@pytest.mark.parametrize(
    "files",
    [
        {"../../../etc/passwd": [1, 2]},
        {"/etc/passwd": [1, 2]},
        {"state/../../10/files.json": [1, 2]},
        {"run/metadata": ["3", 4]},
        {"run/metadata": [-1, 4]},
        {"run/metadata": [True, 4]},
        {"run/metadata": 3},
        {"run/meta\0data": [1, 2]},
        {"run": [1, 2]},
        {"run/metadata/x": [1, 2]},
        {"x" * 300: [1, 2]},
        [["run/metadata", [1, 2]]],
    ],
)
def test_manifests_that_seal_nonsense_are_damage(directory, files):
    write_manifest(directory / "20", files)
    with pytest.raises(DamagedCheckpointError) as error:
        check_files(directory / "20", every_byte=True)
    assert len(str(error.value)) < 800


def test_pipes_and_loops_in_a_checkpoint_are_not_waited_for(directory):
    for number, make in enumerate((os.mkfifo, lambda path: os.symlink(path, path), os.mkdir)):
        path = directory / "20" / "run" / "metadata"
        if number == 0:
            path.unlink()
        make(path)
        with pytest.raises(DamagedCheckpointError, match="metadata"):
            check_files(directory / "20")
        path.rmdir() if path.is_dir() else os.unlink(path)


def test_a_checkpoint_that_cannot_be_read_now_is_not_called_damaged(directory, monkeypatch):
    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("clac_jax.checkpoint.files.file_crc32", fail)
    with pytest.raises(UnreadableCheckpointError, match="Permission denied"):
        read_all(directory)


WRONG = [
    ("progress.step", -1), ("progress.step", 20.0), ("progress.step", True),
    ("progress.epoch", None), ("progress.best_value", "x"), ("progress.unknown", 1),
    ("progress", []), ("metrics", [1]), ("metrics", {"val_loss": "0.1"}), ("metrics", 3),
    ("config", None), ("config", {}), ("config.checkpoint", 1), ("config.checkpoint.mode", "best"),
    ("config.checkpoint.save_top_k", "2"), ("versions", {"jax": 3}), ("versions", []),
    ("num_train_examples", -3), ("saved_at", None), ("leaves", []), ("leaves", {"a": 1}),
    ("leaves", {"a": [[1], "object", 1, 1.0]}), ("leaves", {"a": [[-1], "float32", 1, 1.0]}),
    ("leaves", {"a": [[2**62, 2**62], "float32", 1, 1.0]}),
    ("leaves", {"a": [[1], "float32", "x"]}),
    ("format", "1"), ("extra", 1),
]  # fmt: skip


@pytest.mark.parametrize("key, value", WRONG)
def test_descriptions_that_describe_no_checkpoint_are_named(directory, key, value, capsys):
    folder = directory / "20"
    values = json.loads((folder / "run" / "metadata").read_text())
    *groups, last = key.split(".")
    inner = values
    for group in groups:
        inner = inner[group]
    inner[last] = value
    reseal(folder, "run/metadata", json.dumps(values).encode())
    with pytest.raises(UserError):
        read_info(folder)
    for command in (["ls"], ["show"], ["verify"], ["ls", "--json"]):
        assert cli.main(["ckpt", command[0], str(directory.parent), *command[1:]]) in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_value_in_any_place_of_a_description_is_read_or_refused(original, data):
    folder = original / "20"
    before = {name: (folder / name).read_bytes() for name in ("run/metadata", MANIFEST)}
    try:
        values = json.loads(before["run/metadata"])
        inner, depth = values, data.draw(st.integers(0, 3))
        key = data.draw(st.sampled_from(sorted(inner)))
        for _ in range(depth):
            if isinstance(inner[key], dict) and inner[key]:
                inner = inner[key]
                key = data.draw(st.sampled_from(sorted(inner)))
        inner[key] = data.draw(JSON)
        reseal(folder, "run/metadata", json.dumps(values).encode())
        intact, damaged = read_all(original)
        assert 20 in intact or 20 in damaged
    except UserError:
        pass
    finally:
        for name, content in before.items():
            (folder / name).write_bytes(content)


def test_a_checkpoint_that_a_run_removes_while_it_is_read_is_not_damaged(directory, monkeypatch):
    read = files.read_json

    def read_late(path):
        if path.parent.name == "10" and path.exists():
            shutil.rmtree(path.parent)  # as a run does after saving a better one
        return read(path)

    monkeypatch.setattr(files, "read_json", read_late)
    intact, damaged = read_all(directory)
    assert (list(intact), damaged) == ([20], {})
    with pytest.raises(RemovedCheckpointError, match="10 was removed while it was read"):
        check_files(directory / "10")
