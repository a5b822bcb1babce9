"""A run that is started again in its own workdir, with another config or after its end."""

import shutil

import numpy as np
import pytest
from end_to_end.small_runs import STEPS_PER_EPOCH, arrays_at

from clac_jax.run_log import read_rows
from clac_jax.train import train


@pytest.fixture
def again(stage1, small_config, tmp_path):
    """(**changes) -> the workdir of a finished run that was started again with the changes."""

    def start(**changes):
        workdir = tmp_path / "run"
        if not workdir.exists():
            shutil.copytree(stage1, workdir)
        train(small_config(**changes), workdir)
        return workdir

    return start


def only_test_row(workdir):
    (row,) = (row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "test")
    return row


# With a rate of 0 nothing is ever better, so the best checkpoint is older than the change.
STILL = {"learning_rate": 0.0, "min_learning_rate": 0.0, "max_epochs": 3}
CHANGES = {
    "optimizer": {"optimizer__name": "sgd"},
    "heads": {"use_visual_intramodal_loss": True, "restore__strict": False},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_run_ends_whose_best_checkpoint_is_older_than_a_change(again, change, capsys):
    workdir = again(**change, **STILL)
    row = only_test_row(workdir)
    assert row["step"] == 3 * STEPS_PER_EPOCH
    if "use_visual_intramodal_loss" in change:  # the old ones are another model's
        assert row["checkpoint_step"] == row["step"]
        assert "8 is not tested: its parameters are not the model's" in capsys.readouterr().out
    else:
        assert row["checkpoint_step"] <= 2 * STEPS_PER_EPOCH


def test_unfrozen_parameters_begin_with_updates_of_a_fresh_adam(small_config, tmp_path):
    rate = 1e-3
    plain = {
        "learning_rate": rate,
        "schedule": "constant",
        "warmup_steps": 0,
        "gradient_clip": 0.0,
        "weight_decay": 0.0,
        "optimizer__learning_rate_factors": (),
    }
    train(small_config(frozen=("text_encoder/.*",), **plain), tmp_path)
    train(small_config(frozen=(), max_epochs=3, **plain), tmp_path)
    before, after = arrays_at(tmp_path, 8), arrays_at(tmp_path, 9)
    paths = [path for path in before if path.startswith("params/text_encoder/layer_")]
    moved = np.concatenate([np.abs(after[p] - before[p]).ravel() / rate for p in paths])
    assert np.max(moved) < 1.001
    assert np.median(moved) == pytest.approx(1.0, rel=1e-2)  # 0.49 with the count of the others
