"""`clac-jax ckpt`, mostly inside the test process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from etils import epath
from helpers.states import assert_same, epochs, make_config, save_run

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.removal import discard
from clac_jax.cli import main as cli
from clac_jax.cli.ckpt import EXIT_TROUBLE
from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.training.progress import RunProgress

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("cli") / "run"
    saved = save_run(workdir, epochs(0.5, 0.2, 0.4), make_config(save_top_k=-1))
    return workdir, saved


@pytest.fixture
def run(original, tmp_path):
    """A copy of a run with checkpoints at steps 10, 20 and 30."""
    shutil.copytree(original[0], tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def ckpt(capsys):
    """(*arguments) -> (exit code, stdout, stderr)."""

    def call(*arguments):
        code = cli.main(["ckpt", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def damage(run, step=20):
    os.remove(run / "checkpoints" / str(step) / "run" / "metadata")


def test_ls(run, ckpt):
    code, out, _ = ckpt("ls", run)
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split()[:4] == ["step", "epoch", "example", "val_loss"]
    assert [row.split()[:4] for row in rows] == [
        ["10", "0", "0", "0.5000"],
        ["20", "1", "0", "0.2000"],
        ["30", "2", "0", "0.4000"],
    ]
    assert "best val_loss" in rows[1] and "last" in rows[2]
    code, out, _ = ckpt("ls", run / "checkpoints", "--json")
    assert [row["metrics"]["val_loss"] for row in json.loads(out)] == [0.5, 0.2, 0.4]
    assert [row["ended_epoch"] for row in json.loads(out)] == [0, 1, 2]
    damage(run)
    code, out, _ = ckpt("ls", run)
    assert code == EXIT_TROUBLE
    assert "DAMAGED" in out and "run/metadata is missing" in out


def test_show(run, original, ckpt):
    code, out, _ = ckpt("show", f"{run}@best", "--json")
    shown = json.loads(out)
    assert (code, shown["step"], shown["metrics"]) == (0, 20, {"val_loss": 0.2})
    assert set(shown["arrays"]) == set(original[1][20])
    for path, array in shown["arrays"].items():
        expected = original[1][20][path]
        assert array["shape"] == list(expected.shape)
        assert array["norm"] == pytest.approx(np.linalg.norm(expected.astype(float)), rel=1e-5)
    out = ckpt("show", f"{run}@best")[1]
    assert f"{'step':<20}    1 array {1:>14} number " in out
    assert "params/graph/kernel" in out and "opt_state/inner_state/adam/mu" not in out
    assert "opt_state/inner_state/adam/mu/graph/kernel" in ckpt("show", run, "--all")[1]


def test_the_epoch_of_the_list_is_the_one_that_opens_the_checkpoint(run, ckpt):
    for row in ckpt("ls", run)[1].splitlines()[1:]:
        step, epoch, *_ = row.split()
        shown = json.loads(ckpt("show", f"{run}@epoch={epoch}", "--json")[1])
        assert (str(shown["step"]), str(shown["ended_epoch"])) == (step, epoch)
        assert f"step {step}, end of epoch {epoch};" in ckpt("show", f"{run}@step={step}")[1]


def test_a_checkpoint_within_an_epoch_is_listed_as_such(tmp_path, ckpt):
    within = RunProgress(step=12, epoch=1, examples_in_epoch=8)
    save_run(tmp_path / "run", {12: (within, None)}, make_config(save_top_k=-1))
    assert ckpt("ls", tmp_path / "run")[1].splitlines()[1].split()[:4] == ["12", "in", "1", "8"]
    assert "step 12, in epoch 1, example 8 of " in ckpt("show", tmp_path / "run")[1]


def test_one_failed_removal_of_several_is_in_the_exit_code(run, ckpt, monkeypatch):
    def fail_first(directory, folder):
        return ["It is busy."] if folder.name == "10" else discard(directory, folder)

    monkeypatch.setattr("clac_jax.cli.ckpt.discard", fail_first)
    code, _, err = ckpt("rm", run, 10, 20)
    assert (code, err) == (EXIT_TROUBLE, "warning: It is busy.\n")


def test_diff(run, original, ckpt):
    _, out, _ = ckpt("diff", f"{run}@step=10", f"{run}@step=20", "--json")
    found = json.loads(out)
    a, b = original[1][10], original[1][20]
    a, b = ({path: leaf.astype(float) for path, leaf in side.items()} for side in (a, b))
    expected = {
        path: np.linalg.norm(b[path] - a[path]) / np.linalg.norm(a[path])
        for path in a
        if np.any(a[path] != b[path])
    }
    assert {row[0] for row in found["changed"]} == set(expected)
    for path, relative, largest in found["changed"]:
        assert relative == pytest.approx(expected[path], rel=1e-5)
        assert largest == pytest.approx(np.max(np.abs(b[path] - a[path])), rel=1e-5)
    changes = [row[1] for row in found["changed"]]
    assert changes == sorted(changes, reverse=True)
    assert found["num_equal"] == len(a) - len(expected)
    code, out, _ = ckpt("diff", f"{run}@step=10", f"{run}@step=10")
    assert (code, out) == (0, f"{len(a)} arrays are equal bit for bit\n")


def test_verify(run, ckpt):
    assert ckpt("verify", run)[0] == 0
    data = max((run / "checkpoints" / "20").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[100] ^= 1
    data.write_bytes(content)
    code, out, _ = ckpt("verify", run)
    assert code == EXIT_TROUBLE
    intact, damaged, _ = out.splitlines()
    assert intact.endswith("checkpoints/10: intact")
    assert data.name in damaged
    assert ckpt("verify", run / "checkpoints" / "20")[0] == EXIT_TROUBLE
    assert ckpt("verify", run / "checkpoints" / "30", "--json")[0] == 0


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
@pytest.mark.parametrize("what", ["folder", "folder of an empty run", "file", "nothing"])
def test_a_place_without_a_run_is_an_error_of_the_user_and_not_damage(
    what, command, tmp_path, ckpt
):
    place = tmp_path / "place"
    if what == "file":
        place.write_text("notes")
    elif what != "nothing":
        (place / ("plots" if what == "folder" else "checkpoints")).mkdir(parents=True)
    code, out, err = ckpt(command, place)
    assert (code, out) == (EXIT_USER_ERROR, "")
    assert err.startswith("error: ") and str(place) in err and err.count("\n") == 1


def test_a_checkpoint_of_which_everything_is_gone_is_damaged(run, ckpt):
    folder = run / "checkpoints" / "20"
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    code, out, _ = ckpt("verify", folder)
    assert code == EXIT_TROUBLE and "files.json is missing" in out


def test_rm(run, ckpt):
    code, _, err = ckpt("rm", run, 10, 30)
    assert code == EXIT_USER_ERROR
    assert "newest intact checkpoint" in err and (run / "checkpoints" / "10").exists()
    assert ckpt("rm", run, 10)[0] == 0
    code, _, err = ckpt("rm", run, 10)
    assert (code, "There are 20, 30." in err) == (EXIT_USER_ERROR, True)
    damage(run, 30)  # now 20 is the newest intact one
    assert ckpt("rm", run, 20)[0] == EXIT_USER_ERROR
    assert ckpt("rm", run, 30)[0] == 0
    assert ckpt("rm", run, 20, "--force")[0] == 0
    assert list((run / "checkpoints").iterdir()) == []


def test_export_and_back(run, original, ckpt, tmp_path):
    assert ckpt("export", f"{run}@best", tmp_path / "model")[0] == 0
    names = {path.name for path in (tmp_path / "model").iterdir()}  # as `clac-jax publish` does
    assert {"config.json", "model.safetensors", "README.md", "text_encoder"} < names
    assert ckpt("export", run, tmp_path / "model")[0] == EXIT_USER_ERROR  # never overwrites
    assert ckpt("import", tmp_path / "model", tmp_path / "back")[0] == 0
    info = read_info(epath.Path(tmp_path) / "back" / "checkpoints" / "20")
    expected = {
        path: leaf
        for path, leaf in original[1][20].items()
        if path.startswith(("params/", "batch_stats/"))
    }
    assert_same(read_arrays(info, [p for p in info.leaves if p != "step"]), expected)
    assert info.config == read_info(epath.Path(run) / "checkpoints" / "20").config
    assert ckpt("import", tmp_path / "model", tmp_path / "back")[0] == EXIT_USER_ERROR
    (tmp_path / "model" / "config.json").unlink()
    assert "lacks" in ckpt("import", tmp_path / "model", tmp_path / "other")[2]


@pytest.mark.parametrize("command", ["ls", "show", "verify"])
def test_a_missing_checkpoint(ckpt, command):
    code, _, err = ckpt(command, "nothing")
    assert code == EXIT_USER_ERROR
    assert err.startswith("error: ") and "nothing" in err


def test_looking_needs_no_jax(run):
    """Interactive commands respond quickly: neither JAX nor Orbax is imported."""
    program = (
        "import sys; from clac_jax.cli import main as cli\n"
        f"for name in ('ls', 'verify', 'show'): cli.main(['ckpt', name, {str(run)!r}])\n"
        "assert not {'jax', 'orbax', 'flax', 'tensorstore'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
