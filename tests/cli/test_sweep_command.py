"""`clac-jax sweep`: its commands on trials that pretend, its messages and exit codes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
from helpers.formats import FORMATS
from helpers.paths import ROOT
from helpers.sweep_program import PRETEND, be_quick

from clac_jax import load
from clac_jax.cli.main import main
from clac_jax.config.schema import to_plain
from clac_jax.config.shipped import config_named
from clac_jax.errors import EXIT_FAULTY
from clac_jax.sweeps import driver, trial_run
from clac_jax.sweeps.definition import read
from clac_jax.sweeps.opened import place_of, trial_folder
from clac_jax.sweeps.process_name import name_of
from clac_jax.sweeps.storage import State, Storage, TrialRecord

FILE = """
from clac_jax.sweeps import choice
config = "smoke"
space = {"learning_rate": choice(0.1, 0.2, 0.3), "schedule": choice("constant", "cosine")}
sampler = "grid"
keep_checkpoints = 1
budget = dict(trials=%d)
"""
PROGRAM = """
import sys
from helpers.sweep_program import PRETEND, be_quick
from clac_jax.cli.main import main
from clac_jax.sweeps import trial_run
be_quick()
trial_run.program = lambda: list(PRETEND)
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def sweep(tmp_path, monkeypatch, capsys):
    """(command, *arguments) -> (exit code, output, errors) of `clac-jax sweep`."""
    monkeypatch.delenv("CLAC_SWEEP_STORAGE", raising=False)
    monkeypatch.setattr(trial_run, "program", lambda: list(PRETEND))
    for module in (trial_run, driver):
        monkeypatch.setattr(module, "POLL_SECONDS", module.POLL_SECONDS)
    be_quick()

    def run(command, *arguments):
        code = main(["sweep", command, *map(str, arguments), f"--workdir={tmp_path / 'lr'}"])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def file(tmp_path):
    def write(trials=3):
        path = tmp_path / "lr.py"
        path.write_text(FILE % trials)
        return path

    return write


@pytest.fixture
def defined(tmp_path, file):
    """The sweep without the check of its config, which takes a second."""

    def define(trials=3):
        plain = read(str(file(trials))).to_plain()
        more = {"monitor": "val_loss", "mode": "min", "overrides": {"max_epochs": 4}}
        with place_of(tmp_path / "lr").open() as storage:
            storage.define(
                {"file": plain, "complete": plain | more, "config": to_plain(config_named("smoke"))}
            )
        return tmp_path / "lr.py"

    return define


def test_a_sweep_from_its_start_to_its_best_trial(sweep, defined, file, tmp_path):
    path = defined()
    code, out, err = sweep("start", path)
    assert code == 0 and "finished: 3 trials of 3: 3 complete" in out
    assert err.count("complete, val_loss") == 3
    code, again, err = sweep("start", path)
    assert (code, again, err) == (0, out, ""), "the same command says that it is finished"
    # The table, the best trial first.
    code, out, _ = sweep("ls")
    header, *rows = out.splitlines()
    names = ["trial", "state", "val_loss", "epochs", "time", "learning_rate", "schedule"]
    assert code == 0 and header.split() == names and len(rows) == 5
    code, listed, _ = sweep("ls", "--json")
    trials = json.loads(listed)
    best = min(trials, key=lambda trial: trial["value"])
    assert rows[0].split()[0] == str(best["number"]) and len(best["values"]) == 4
    code, out, _ = sweep("best")
    assert out.splitlines()[0].split() == ["trial", str(best["number"])]
    assert json.loads(sweep("best", "--json")[1]) == best
    code, out, _ = sweep("show", best["number"])
    assert code == 0 and str(trial_folder(tmp_path / "lr", best["number"])) in out
    assert json.loads(sweep("show", best["number"], "--json")[1]) == best
    # A larger budget continues it; anything else is an error.
    code, out, _ = sweep("start", file(4))
    assert code == 0 and "4 trials of 4" in out
    path.write_text(path.read_text() + "seed = 7\n")
    code, _, err = sweep("start", path)
    assert code == 2 and "seed: 0 -> 7" in err and "Traceback" not in err


def test_the_model_of_the_best_trial_is_published_and_loaded(sweep, defined, tmp_path):
    """Trained by a real run, which takes the place of the trial that pretended."""
    sweep("start", defined())
    number = json.loads(sweep("best", "--json")[1])["number"]
    folder = trial_folder(tmp_path / "lr", number)
    shutil.rmtree(folder)
    code, _, err = sweep("best", "--export", tmp_path / "model")
    assert code == 2 and f"{folder} is not here" in err
    run = FORMATS / "3" / "run"
    shutil.copytree(run, folder)
    code, _, err = sweep("best", "--export", tmp_path / "model")
    assert code == 2 and "which was not saved" in err and f"clac-jax publish {folder}@step=" in err
    assert not (tmp_path / "model").exists()
    with place_of(tmp_path / "lr").open() as storage:
        storage.revive(storage.trial(number), {})
        lease = storage.claim(storage.trial(number), name_of(os.getpid()))
        values = [[8, 0, -1.0], [16, 1, 2.0]]
        storage.finish(lease, State.COMPLETE, {"value": -1.0, "values": values})
    code, out, err = sweep("best", "--export", tmp_path / "model")
    assert code == 0 and str(tmp_path / "model") in out, err
    texts = ["A cubic perovskite.", "An oxide of iron."]
    vectors = (load(source).embed_texts(texts) for source in (tmp_path / "model", f"{run}@step=8"))
    np.testing.assert_array_equal(*vectors)


def test_folders_of_one_name_do_not_share_a_sweep_by_accident(
    file, tmp_path, sweep, capsys, monkeypatch
):
    """As in one PostgreSQL database, of which a SQLite file elsewhere takes the place."""
    path, url = file(1), f"sqlite:///{tmp_path / 'common.db'}"

    def start(folder, *more):
        words = ["sweep", "start", str(path), f"--workdir={tmp_path / folder}", f"--storage={url}"]
        return main([*words, *more]), capsys.readouterr().err

    assert start("a/lr")[0] == 0 and start("a/lr")[0] == 0
    path.write_text(path.read_text() + "seed = 7\n")
    code, err = start("b/lr")
    assert code == 2 and "Traceback" not in err and not (tmp_path / "b").exists()
    assert f"'lr' already, of the folder {tmp_path / 'a' / 'lr'}. Give --name=NAME" in err
    assert start("b/lr", "--name=other")[0] == 0 and start("b/lr")[0] == 0
    path.write_text(path.read_text().replace("seed = 7\n", "").replace("trials=1", "trials=2"))
    assert start("c/lr", "--name=lr")[0] == 0 and start("c/lr")[0] == 0, "it was named"
    assert start("d/lr")[0] == 2, "the first folder is kept when the budget changes"
    with monkeypatch.context() as patched:
        patched.setattr(socket, "gethostname", lambda: "another")
        assert start("d/lr")[0] == 0, "a folder on a different machine may be anywhere"
    os.rename(tmp_path / "a", tmp_path / "e")
    assert start("e/lr")[0] == 0, "a folder that was moved says its name"


def test_a_folder_with_its_own_database_may_be_moved(file, sweep, tmp_path):
    path = file(1)
    assert sweep("start", path)[0] == 0
    moved = tmp_path / "elsewhere" / "lr"
    moved.parent.mkdir()
    os.rename(tmp_path / "lr", moved)
    (moved / "sweep.json").unlink()
    assert main(["sweep", "start", str(path), f"--workdir={moved}"]) == 0


CONFIG = """
from clac_jax.config.shipped import shipped_config

def get_config():
    config = shipped_config("smoke")
    config.update_from_flattened_dict(%r)
    return config
"""


def test_a_config_that_has_changed_reaches_no_trial_and_its_keys_are_named(sweep, file, tmp_path):
    config, path = tmp_path / "mine.py", file(1)
    path.write_text(path.read_text().replace('"smoke"', repr(str(config))))
    original = CONFIG % {"batch_size": 4, "frozen": ("text_encoder/.*",)}
    config.write_text(original)
    assert sweep("start", path)[0] == 0
    # Also the sampled key differs, which each trial sets itself.
    config.write_text(CONFIG % {"batch_size": 2, "checkpoint.share": False, "learning_rate": 1.0})
    path.write_text(path.read_text().replace("trials=1", "trials=2"))
    code, _, err = sweep("start", path)
    assert code == 2 and "Traceback" not in err
    assert 'frozen: ["text_encoder/.*"] -> [' in err and "learning_rate" not in err
    assert (
        str(config) in err
        and "batch_size: 4 -> 2" in err
        and "checkpoint.share: true -> false" in err
    )
    config.write_text(original)
    assert sweep("start", path)[0] == 0
    # What the trials are run with is a copy.
    config.unlink()
    for trial in (0, 1):
        record = json.loads((trial_folder(tmp_path / "lr", trial) / "trial.json").read_text())
        [used] = [word for word in record["command"] if word.startswith("--config=")]
        kept = config_named(used.removeprefix("--config="))
        assert (kept.batch_size, kept.frozen) == (4, ("text_encoder/.*",))


def test_a_sweep_without_a_complete_trial_is_an_error(sweep, defined, monkeypatch):
    monkeypatch.setenv("PRETEND_FAULT", "start")
    code, out, _ = sweep("start", defined(2))
    assert code == 2 and "2 trials of 2: 2 failed" in out and "clac-jax sweep revive 0 1" in out
    monkeypatch.setenv("PRETEND_FAULT", "")
    sweep("revive", 0, 1)
    code, out, _ = sweep("start", defined(2))
    assert code == 0 and "failed:" not in out


def test_a_failed_trial_is_shown_with_its_last_lines_and_revived(
    sweep, defined, monkeypatch, tmp_path
):
    monkeypatch.setenv("PRETEND_FAULT", "learning_rate=0.3:2")
    path = defined(trials=6)
    code, out, _ = sweep("start", path)
    assert code == 0 and "4 complete, 2 failed" in out
    trials = json.loads(sweep("ls", "--json")[1])
    failed = [trial["number"] for trial in trials if trial["state"] == "failed"]
    assert f"failed: trials {failed[0]}, {failed[1]}; trial {failed[0]}: exit code 2: lear" in out
    command = f"clac-jax sweep revive {failed[0]} {failed[1]} --workdir={tmp_path / 'lr'}"
    assert f"`{command}` and the same command" in out
    _, out, _ = sweep("show", failed[0])
    assert "exit code 2: learning_rate=0.3 cannot be used" in out
    assert out.splitlines()[-1] == "  error: learning_rate=0.3 cannot be used."
    monkeypatch.setenv("PRETEND_FAULT", "")
    code, out, _ = sweep("revive", *failed)
    assert code == 0 and out.count("waits") == 2
    assert "6 complete" in sweep("start", path)[1]
    # The disk: one trial keeps its checkpoints.
    assert len(list(tmp_path.glob("lr/trials/*/checkpoints"))) == 1
    assert "no checkpoints to remove" in sweep("prune", "--checkpoints")[1]


@pytest.mark.parametrize(
    "words, message",
    [
        (["show", "9"], "The sweep has no trial 9. It has no trials yet."),
        (["best"], "has no complete trial yet"),
        (["prune"], "Nothing to prune"),
        (["revive", "0"], "no trial 0"),
        (["start", "no_file.py"], "cannot be read"),
        (["ls", "--storage=mysql://h/x"], "--storage"),
        (["ls", "--name=other"], "has no sweep named 'other'"),
        (["start", "lr", "--storage=postgresql://u:secret@127.0.0.1:1/x"], "u:***@127.0.0.1"),
    ],
)
def test_a_mistake_is_one_sentence(sweep, defined, words, message):
    defined()
    code, out, err = sweep(*words)
    assert code == 2 and message in err and "Traceback" not in err
    assert err.startswith("error: ") and "secret" not in err + out


@pytest.mark.parametrize("words", [["ls"], ["stop"], ["revive", "0"], ["prune", "0"], ["page"]])
def test_a_folder_without_a_sweep_stays_as_it_is(sweep, tmp_path, words):
    code, _, err = sweep(*words)
    assert code == 2 and f"There is no sweep in {tmp_path / 'lr'}" in err
    assert not (tmp_path / "lr").exists()


def test_a_request_to_stop_says_what_it_reaches(sweep, defined, tmp_path):
    defined()
    assert "no trial is running" in sweep("stop")[1]
    with place_of(tmp_path / "lr").open() as storage:
        storage.add(TrialRecord(0, {}))
        storage.claim(storage.trial(0), name_of(os.getpid()))
    assert f"process {os.getpid()} on" in sweep("show", 0)[1]
    assert "the programs that run 1 trial save and stop now" in sweep("stop")[1]


def test_a_faulty_machine_ends_the_command_with_the_exit_code_of_a_run(sweep, defined, monkeypatch):
    monkeypatch.setenv("PRETEND_FAULT", "learning_rate=0.3:77")
    path = defined(trials=6)
    code, _, err = sweep("start", path)
    assert code == EXIT_FAULTY and "the same command on a different machine" in err
    monkeypatch.setenv("PRETEND_FAULT", "")
    assert "6 complete" in sweep("start", path)[1]


def test_a_workdir_in_a_bucket_is_refused(capsys):
    assert main(["sweep", "ls", "--workdir=s3://bucket/x"]) == 2
    assert "--workdir is a URL" in capsys.readouterr().err


def test_a_signal_saves_the_trials_and_the_same_command_continues(defined, tmp_path):
    words = [sys.executable, "-c", PROGRAM, "sweep", "start", str(defined(2))]
    words += [f"--workdir={tmp_path / 'lr'}", "--trials-at-once=2"]
    path = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"
    environment = os.environ | {"PYTHONPATH": path, "PRETEND_SECONDS": "0.3"}
    program = subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True)
    with program:
        assert "starts" in program.stderr.readline()
        program.send_signal(signal.SIGTERM)
        _, err = program.communicate(timeout=60)
    assert program.returncode == 75
    assert "SIGTERM: the trials are being saved." in err and "rerun the same command" in err
    done = subprocess.run(
        words, env=environment | {"PRETEND_SECONDS": "0"}, capture_output=True, text=True
    )
    assert done.returncode == 0 and "2 trials of 2: 2 complete" in done.stdout
    with Storage(f"sqlite:///{tmp_path / 'lr' / 'sweep.db'}", "lr") as storage:
        assert storage.trial(0).fence == 2
