"""`clac-jax evaluate` and `compare` on tiny trained runs."""

import contextlib
import dataclasses
import io
import json
import os
import shutil

import pyarrow.parquet
import pytest

import clac_jax
from clac_jax.checkpoint.locate import locate
from clac_jax.cli import main as cli
from clac_jax.evaluation import trained as trained_lib
from clac_jax.evaluation.results import open_results
from clac_jax.reporting.metrics_file import read_rows
from configs import smoke

COUNT = 12


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    config = smoke.get_config()
    config.dataset.data_dir = str(data_dir)
    config.dataset.max_examples = COUNT
    config.max_epochs = 1
    config.graph_encoder.name = "composition"  # compiles fastest
    config.use_visual_intramodal_loss = config.use_textual_intramodal_loss = False
    config.checkpoint.every_n_steps = 1
    config.checkpoint.save_top_k = -1
    config.logging.tensorboard = False
    config.compilation_cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    workdir = tmp_path_factory.mktemp("evaluate") / "run"
    clac_jax.train(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def printed(run):
    """The output of evaluating the newest checkpoint and the first one, by step."""
    outputs = {}
    for name in (run, f"{run}@step=1"):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            assert cli.main(["evaluate", str(name), "--resamples=50"]) == 0
        outputs[str(name)] = output.getvalue()
    return outputs


def evaluation(run, step):
    return json.loads((run / "eval" / str(step) / "eval.json").read_text())


def test_the_figures_are_those_of_the_test_at_the_end_of_the_run(run, printed):
    row = read_rows(run / "metrics.jsonl")[-1]
    assert row["split"] == "test"
    content = evaluation(run, row["checkpoint_step"])
    retrieval = content["tasks"]["retrieval"]
    assert retrieval["pool_size"] == row["pool_size"] == COUNT
    for name, found in retrieval["by_example"].items():
        suffix = "_no_formula" * name.endswith("_no_formula")
        for k in (1, 3, 10):
            expected = row[f"{name.removesuffix(suffix)}_top{k}{suffix}"]
            assert found[f"top{k}"]["value"] == pytest.approx(expected, abs=1e-12)
    assert content["data"]["is_that_of_the_training"] is True


def test_files_are_next_to_the_checkpoints_by_step(run, printed):
    assert sorted(path.name for path in (run / "eval").iterdir()) == ["1", "3"]
    names = {"eval.json", "ranks.parquet", "report.html"}
    assert names <= {path.name for path in (run / "eval" / "3").iterdir()}
    table = pyarrow.parquet.read_table(run / "eval" / "3" / "ranks.parquet")
    assert table.num_rows == COUNT


def test_the_table_is_printed_with_intervals_and_chance(run, printed):
    text = printed[str(run)]
    content = evaluation(run, 3)
    top1 = content["tasks"]["retrieval"]["by_example"]["text_to_crystal"]["top1"]
    low, high = 100 * top1["low"], 100 * top1["high"]
    line = next(line for line in text.splitlines() if line.startswith("  text → crystal  "))
    assert f"{100 * top1['value']:.1f} [{low:.1f}, {high:.1f}]" in line
    assert f"chance, 1 in {COUNT}" in text and content["model"]["checksum"] in text
    assert max(map(len, text.splitlines())) < 160


def test_two_checkpoints_are_compared(run, printed, tmp_path, capsys):
    files = [f"--json={tmp_path / 'a.json'}", f"--html={tmp_path / 'a.html'}"]
    models = [f"{run}@step=1", str(run / "eval" / "3")]  # a checkpoint and an evaluation
    assert cli.main(["compare", *models, "--resamples=50", *files]) == 0
    text = capsys.readouterr().out
    assert f"A  {run}@step=1 (step 1)" in text and f"B compared with A, {COUNT} crystals" in text
    content = json.loads((tmp_path / "a.json").read_text())
    (pair,) = content["paired"]["pairs"]
    found = {measure["measure"]: measure for measure in pair["measures"]}
    for side, step in (("first", 1), ("other", 3)):
        retrieval = evaluation(run, step)["tasks"]["retrieval"]["by_example"]
        mean_rank = retrieval["crystal_to_text"]["mean_rank"]["value"]
        assert found["crystal_to_text mean rank"][side] == pytest.approx(mean_rank)
    assert content["config"] == {}
    assert content["curves"]["points"]["val_loss"][0] == content["curves"]["points"]["val_loss"][1]
    assert "http" not in (tmp_path / "a.html").read_text()


def test_a_published_model_is_evaluated_as_its_run(run, printed, tmp_path, capsys):
    assert cli.main(["publish", f"{run}@step=3", str(tmp_path / "model")]) == 0
    assert "Name one with --out" in error_of(capsys, "evaluate", tmp_path / "model")
    arguments = [str(tmp_path / "model"), "--out", str(tmp_path / "out"), "--resamples=50"]
    assert cli.main(["evaluate", *arguments]) == 0
    content, own = json.loads((tmp_path / "out" / "eval.json").read_text()), evaluation(run, 3)
    for part in ("data", "intervals", "tasks"):
        assert content[part] == own[part]
    assert content["model"]["checksum"] == own["model"]["checksum"]
    assert content["data"]["is_that_of_the_training"] is True


def test_a_run_without_a_step_means_its_newest_evaluated_checkpoint(run, printed, tmp_path):
    assert open_results(str(run), "test").step == 3
    (run / "eval" / "3").rename(tmp_path / "3")
    try:
        assert open_results(str(run), "test").step == 1
        assert not open_results(f"{run}@last", "test").is_evaluated
        assert not open_results(str(run), "validation").is_evaluated
    finally:
        (tmp_path / "3").rename(run / "eval" / "3")


def error_of(capsys, *arguments):
    assert cli.main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    return error


def test_impossible_evaluations_are_explained(run, printed, tmp_path, capsys):
    error = error_of(capsys, "evaluate", run, "--tasks=retrieval,qqq")
    assert "no task 'qqq'" in error and "retrieval" in error
    assert "no split 'tests'" in error_of(capsys, "evaluate", run, "--split=tests")
    assert "--resamples" in error_of(capsys, "evaluate", run, "--resamples=0")
    assert "does not exist" in error_of(capsys, "evaluate", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds none" in error_of(capsys, "evaluate", tmp_path / "empty")
    error = error_of(capsys, "evaluate", f"{run}@step=2", "--data_dir", tmp_path, "--dataset=nnn")
    assert "Unknown data set 'nnn'" in error


def test_impossible_comparisons_are_explained(run, printed, tmp_path, capsys):
    assert "at least two" in error_of(capsys, "compare", run)
    assert "does not exist" in error_of(capsys, "compare", run, tmp_path / "none")
    broken = shutil.copytree(run / "eval" / "3", tmp_path / "broken")
    (broken / "eval.json").write_text('{"format": 1}')
    assert "Run `clac-jax evaluate` again" in error_of(capsys, "compare", run, broken)
    assert cli.main(["compare", str(run), f"{run}@step=2", "--resamples=10"]) == 0
    assert "(not evaluated)" in capsys.readouterr().out


def test_data_changed_since_the_training_are_refused(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(trained_lib, "locate", lambda name: changed(locate(name)))
    error = error_of(capsys, "evaluate", run, "--out", tmp_path)
    assert "has changed since" in error and "fingerprint was 0123" in error
    assert not list(tmp_path.iterdir())


def changed(info):
    """The description of a checkpoint that was trained on other data."""
    return dataclasses.replace(info, data={**info.data, "test": "0123" * 8})


def test_own_classes_are_read_from_a_csv(run, printed, tmp_path, capsys):
    classes = tmp_path / "mine.csv"
    command = ["evaluate", str(run), "--tasks=classes", f"--classes={classes}", "--resamples=20"]
    command += [f"--out={tmp_path / 'out'}"]
    classes.write_text("id,label\nm1,\n")
    assert cli.main(command) == 2
    assert "Row 2 of" in capsys.readouterr().err
    ranks = pyarrow.parquet.read_table(next((run / "eval").glob("*/ranks.parquet")))
    ids = ranks["material_id"].to_pylist()
    rows = [f"{name},{'even' if k % 2 else 'odd'}" for k, name in enumerate(ids)]
    classes.write_text("\n".join(["id,label", *rows]))
    assert cli.main(command) == 0
    assert "own: odd" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "eval.json").read_text())
    assert content["tasks"]["classes"]["classes"]["own: even"]["crystals"] == COUNT
