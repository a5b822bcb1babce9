"""Supervised fine-tuning: the same loop with a different task."""

import json

import numpy as np
import pyarrow.parquet
import pytest
from helpers.small_runs import arrays_at, assert_same, train_rows, untimed

from clac_jax.cli import main as cli
from clac_jax.errors import ConfigError
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.tasks.property import spread
from clac_jax.training_run import train

TASK = {
    "task": "property",
    "checkpoint__monitor": "val_mae",
    "checkpoint__save_top_k": -1,
    "frozen": (),
    "optimizer__learning_rate_factors": (),
}
FROM_CONTRASTIVE = {
    "restore__parts": ("params",),
    "restore__rules": (("(text_encoder|cross_head)/.*", None),),
    "restore__strict": False,
}


def test_starts_from_the_graph_encoder_of_a_contrastive_run(stage1, small_config, tmp_path):
    frozen = TASK | {"frozen": ("graph_encoder/.*",), "resume_from": str(stage1)}
    row = train(small_config(**frozen | FROM_CONTRASTIVE), tmp_path / "run")
    last = max(int(p.name) for p in (stage1 / "checkpoints").iterdir())
    before, after = arrays_at(stage1, last), arrays_at(tmp_path / "run", row["step"])
    encoder = {path for path in before if path.startswith("params/graph_encoder/")}
    assert encoder and encoder == {p for p in after if p.startswith("params/graph_encoder/")}
    for path in encoder:  # frozen: unchanged
        np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert any(path.startswith("params/property_head/") for path in after)
    assert not any(path.startswith("params/text_encoder/") for path in after)


@pytest.mark.slow
def test_rows_and_the_mean_as_a_guess(small_config, tmp_path, drawn_reports):
    changes = TASK | {"learning_rate": 1e-2, "max_epochs": 3, "schedule": "constant"}
    # Descriptors are of crystals; a loss on texts has no effect without texts.
    changes |= {"graph_encoder__add_descriptors": True, "structure_weight": 0.5}
    row = train(small_config(**changes), tmp_path)
    rows = read_rows(tmp_path / "metrics.jsonl")
    val = [r for r in rows if r["split"] == "val"]
    assert {"val_loss", "val_mae", "pool_size"} <= val[0].keys()
    assert {"loss", "mae", "grad_norm", "learning_rate"} <= train_rows(tmp_path)[0].keys()
    assert row["constant_guess_mae"] > 0 and row["pool_size"] == 16
    best = min(val, key=lambda r: r["val_mae"])
    assert row["checkpoint_step"] == best["step"]
    assert json.loads((tmp_path / "config.json").read_text())["task"] == "property"
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    state = arrays_at(tmp_path, best["step"])
    # Mean and standard deviation of the labels, in the checkpoint.
    assert state["batch_stats/label_std"] > 0
    assert "params/graph_encoder/descriptors/site_0/kernel" in state
    assert not any(path.startswith("params/structure_head") for path in state)
    # Evaluated afterwards, its errors are the same.
    assert cli.main(["evaluate", f"{tmp_path}@best", "--resamples=20"]) == 0
    folder = tmp_path / "eval" / str(best["step"])
    found = json.loads((folder / "eval.json").read_text())["tasks"]["property"]["by_example"]
    assert found["model"]["mae"]["value"] == pytest.approx(row["test_mae"], rel=1e-4)
    assert found["mean"]["mae"]["value"] == pytest.approx(row["constant_guess_mae"], rel=1e-6)
    assert pyarrow.parquet.read_table(folder / "predictions.parquet").num_rows == 16
    assert "Parity plot" in (folder / "report.html").read_text()


def test_classes(small_config, tmp_path):
    changes = {
        "property__name": "crystal system",
        "property__kind": "classification",
        "checkpoint__monitor": "val_accuracy",
        "checkpoint__mode": "max",
    }
    row = train(small_config(**TASK | changes), tmp_path)
    assert 0 <= row["test_accuracy"] <= 1 and 0 < row["constant_guess_accuracy"] <= 1
    last = max(int(p.name) for p in (tmp_path / "checkpoints").iterdir())
    assert arrays_at(tmp_path, last)["params/property_head/kernel"].shape[1] == 7


@pytest.mark.slow
def test_stopped_and_resumed_is_the_same(small_config, tmp_path):
    """`test_healing.py` goes back to a checkpoint of this task, to the same bits."""
    train(small_config(**TASK, max_epochs=1, schedule="constant"), tmp_path / "parts")
    constant = small_config(**TASK, schedule="constant")
    train(constant, tmp_path / "constant")
    train(constant, tmp_path / "parts")
    last = max(int(p.name) for p in (tmp_path / "parts" / "checkpoints").iterdir())
    assert_same(arrays_at(tmp_path / "parts", last), arrays_at(tmp_path / "constant", last))
    ours, theirs = (
        [untimed(r) for r in train_rows(tmp_path / name)] for name in ("parts", "constant")
    )
    assert ours == theirs


@pytest.mark.parametrize("unit", [1.0, 1e-8, 1e8])
def test_labels_are_divided_by_their_deviation_unless_they_are_equal(unit):
    labels = np.array([0.1, 0.1001, 0.1002]) * unit
    assert spread(labels) == pytest.approx(np.std(labels), rel=1e-12)
    equal = np.full(48, 0.1) * unit
    assert np.std(equal) != 0 or unit != 1, "rounding"
    assert spread(equal) == spread(np.zeros(3)) == 1


def test_a_number_is_not_a_class(small_config, tmp_path):
    changes = {"property__kind": "classification", "checkpoint__monitor": "val_loss"}
    with pytest.raises(Exception, match="is not a class"):
        train(small_config(**TASK | changes), tmp_path)


def test_a_monitor_of_a_different_task_is_refused(small_config, tmp_path):
    changes = {"checkpoint__monitor": "text_to_crystal_top1"}
    with pytest.raises(ConfigError, match=r"val_loss, val_mae"):
        train(small_config(**TASK | changes), tmp_path)
