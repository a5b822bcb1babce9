"""`clac-jax embed` and `clac-jax index`, as users meet them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import user_tables
from helpers.killed_index import contents
from helpers.paths import ROOT
from helpers.stub_model import StubModel

import clac_jax
from clac_jax.cli import main as cli
from clac_jax.errors import UserError
from clac_jax.index.store import Index
from configs import smoke


@pytest.fixture(autouse=True)
def stub(monkeypatch):
    monkeypatch.setattr(clac_jax, "load", lambda name: StubModel(), raising=False)


@pytest.fixture
def table(tmp_path):
    return user_tables.write(tmp_path / "t.jsonl", [user_tables.row(k) for k in range(90)])


@pytest.fixture
def folder(table, tmp_path, capsys):
    assert cli.main(["embed", "run", str(table), "--out", str(tmp_path / "idx")]) == 0
    assert capsys.readouterr().out == (
        f"{tmp_path / 'idx'}: 90 crystals with their texts, 8 dimensions\n  none refused\n"
    )
    return tmp_path / "idx"


def test_info_says_what_it_holds_and_check_that_it_is_intact(folder, capsys):
    assert cli.main(["index", "info", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "model       stub, step 7, checksum" in out
    assert "data        t.jsonl: 90, fingerprint" in out
    assert cli.main(["index", "info", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["count"] == 90
    assert cli.main(["index", "check", str(folder)]) == 0
    assert "intact, 90 crystals" in capsys.readouterr().out


def test_check_exits_with_1_for_damage(folder, capsys):
    path = folder / "vectors-00000.npy"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    assert cli.main(["index", "check", str(folder)]) == 1
    assert capsys.readouterr().out.startswith("vectors-00000.npy: DAMAGED")
    assert cli.main(["index", "check", str(folder), "--json"]) == 1
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_refused_crystals_are_counted_at_the_end(tmp_path, capsys):
    rows = [user_tables.row(0), user_tables.row(1, atoms=None)]
    table = user_tables.write(tmp_path / "t.jsonl", rows)
    command = ["embed", "run", str(table), "--out", str(tmp_path / "idx")]
    assert cli.main(command) == 2
    assert "skip them with --on_bad=skip" in capsys.readouterr().err
    assert cli.main([*command, "--on_bad=skip"]) == 0
    out = capsys.readouterr().out
    assert f"1 refused, listed in {tmp_path / 'idx' / 'refused.jsonl'}" in out


def test_add_uses_the_model_that_the_index_names(folder, tmp_path, monkeypatch, capsys):
    loaded = []
    monkeypatch.setattr(clac_jax, "load", lambda name: loaded.append(name) or StubModel())
    table = user_tables.write(tmp_path / "more.jsonl", [user_tables.row(99)])
    assert cli.main(["index", "add", str(folder), str(table)]) == 0
    assert "91 crystals" in capsys.readouterr().out
    assert loaded == ["stub"]


def test_add_says_how_to_name_a_model_that_has_moved(folder, tmp_path, monkeypatch, capsys):
    def fail(name):
        raise UserError(f"{name} does not exist.")

    monkeypatch.setattr(clac_jax, "load", fail)
    assert cli.main(["index", "add", str(folder), "more.jsonl"]) == 2
    assert "stub does not exist. Name it with --model." in capsys.readouterr().err
    assert cli.main(["index", "add", str(folder), "more.jsonl", "--model=other"]) == 2
    assert capsys.readouterr().err == "error: other does not exist.\n"


def test_build_prints_the_recall_and_export_the_count(folder, tmp_path, capsys):
    assert cli.main(["index", "build", str(folder), "--ann", "--lists=2"]) == 0
    out = capsys.readouterr().out
    assert "2 lists of 90 crystals" in out
    assert "(used)" in out
    export = ["index", "export", str(folder), "--to", "lancedb", str(tmp_path / "db")]
    assert cli.main([*export, "--name=salts"]) == 0
    assert "90 crystals written to lancedb" in capsys.readouterr().out


def test_a_share_is_written_as_a_fraction(table, tmp_path, capsys):
    out = ["--out", str(tmp_path / "idx")]
    with pytest.raises(SystemExit) as raised:
        cli.main(["embed", "run", str(table), *out, "--shard=two"])
    assert raised.value.code == 2
    assert "'two' is not of the form 3/16" in capsys.readouterr().err
    assert cli.main(["embed", "run", str(table), *out, "--shard=2/2"]) == 0
    assert "0 of 1 parts" not in capsys.readouterr().err
    assert cli.main(["embed", "run", str(table), *out, "--shard=1/2"]) == 0
    assert Index(tmp_path / "idx").count == 90


@pytest.mark.slow
def test_a_killed_program_with_a_trained_model_resumes_to_the_same_bytes(
    data_dir, tmp_path, monkeypatch
):
    monkeypatch.undo()
    config = smoke.get_config()
    config.dataset.data_dir = str(data_dir)
    config.logging.tensorboard = False
    clac_jax.train(config, tmp_path / "run")
    command = [sys.executable, "-m", "clac_jax", "embed", str(tmp_path / "run")]
    command += ["materials_project_mini:test", "--shard_rows=100", f"--data_dir={data_dir}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*command, f"--out={tmp_path / 'a'}"], env=environment, check=True)
    for part in ("plan.json", "000000.parquet", "000004.parquet"):
        process = subprocess.Popen([*command, f"--out={tmp_path / 'b'}"], env=environment)
        while not (tmp_path / "b" / "parts" / part).exists() and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run([*command, f"--out={tmp_path / 'b'}"], env=environment, check=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
