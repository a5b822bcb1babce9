"""A run resumes with a changed config: what changes and what stays, by array and row."""

import json

import numpy as np
import pytest
from etils import epath
from helpers.small_runs import (
    BATCH,
    STEPS_PER_EPOCH,
    arrays_at,
    assert_same,
    train_rows,
    untimed,
)

from clac_jax.checkpoint.layout import step_folders
from clac_jax.checkpoint.restore import TreeMismatchError
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.reporting.rows import numbers
from clac_jax.training.progress import RunProgress
from clac_jax.training.schedules import Timeline, make_schedule, timeline_of
from clac_jax.training_run import train


def test_another_workdir_continues_like_the_same_run(stage1, small_config, tmp_path):
    train(small_config(resume_from=f"{stage1}@step=5"), tmp_path)
    assert_same(arrays_at(tmp_path, 8), arrays_at(stage1, 8))
    expected = [untimed(row) for row in train_rows(stage1)[5:]]
    assert [untimed(row) for row in train_rows(tmp_path)] == expected
    report = json.loads((tmp_path / "restore_report.json").read_text())
    assert report["counts"]["restored"] == len(report["arrays"])


@pytest.mark.slow
def test_in_chunks_and_with_rematerialization_it_is_the_same_run(stage1, small_config, tmp_path):
    saving = {"gradient_cache_chunks": 2, "remat": ("graph_encoder", "text_encoder")}
    train(small_config(resume_from=f"{stage1}@epoch=0", **saving), tmp_path)
    rows, expected = train_rows(tmp_path), train_rows(stage1)[STEPS_PER_EPOCH:]
    for row, plain in zip(rows, expected, strict=True):
        assert numbers(untimed(row)) == pytest.approx(numbers(untimed(plain)), rel=1e-4)


def test_more_epochs_extend_the_schedule(stage1, small_config, tmp_path):
    longer = small_config(resume_from=f"{stage1}@epoch=0", max_epochs=3)
    train(longer, tmp_path)
    schedule = make_schedule(longer, Timeline(3 * STEPS_PER_EPOCH, STEPS_PER_EPOCH))
    rows = train_rows(tmp_path)
    assert [(row["step"], row["epoch"]) for row in rows] == [
        (step + 1, step // STEPS_PER_EPOCH) for step in range(4, 12)
    ]
    for row in rows:
        assert row["learning_rate"] == pytest.approx(float(schedule(row["step"] - 1)), rel=1e-4)


def test_the_learning_rate_of_the_config_wins(stage1, small_config, tmp_path):
    lower = small_config(resume_from=f"{stage1}@step=5", learning_rate=1e-5, schedule="constant")
    train(lower, tmp_path)
    rates = [row["learning_rate"] for row in train_rows(tmp_path)]
    assert rates == pytest.approx([1e-5] * 3)


@pytest.mark.slow
def test_the_plateau_schedule_resumes_where_it_was(small_config, tmp_path, capsys):
    plateau = {"schedule": "plateau", "plateau__patience": 0, "warmup_steps": 0, "max_epochs": 3}
    # A metric that is constant while nothing is learned: a tie is not an improvement.
    still = {"learning_rate": 1e-6, "checkpoint__monitor": "crystal_to_text_top10"}
    saves = {"checkpoint__mode": "max", "checkpoint__every_n_steps": 5}
    config = small_config(**plateau, **still, **saves)
    train(config, tmp_path / "undisturbed")
    rates = [row["learning_rate"] for row in train_rows(tmp_path / "undisturbed")]
    assert rates == pytest.approx([1e-6] * 8 + [0.5e-6] * 4)
    config.resume_from = f"{tmp_path / 'undisturbed'}@step=10"
    capsys.readouterr()
    train(config, tmp_path / "resumed")
    said = "next: step 11, learning rate 5e-07 (0.5 of the schedule's, kept from the plateaus"
    assert said in capsys.readouterr().out
    assert_same(arrays_at(tmp_path / "resumed", 12), arrays_at(tmp_path / "undisturbed", 12))
    # A different schedule starts at its own rate.
    constant = small_config(resume_from=f"{tmp_path / 'undisturbed'}@step=10", schedule="constant")
    constant.max_epochs, constant.warmup_steps = 3, 0
    train(constant, tmp_path / "constant")
    rate = train_rows(tmp_path / "constant")[0]["learning_rate"]
    assert rate == pytest.approx(constant.learning_rate)


@pytest.mark.parametrize(
    "changes, examples, total_steps",
    [
        ({"batch_size": 8}, [28, 36, 44], 8),  # 12 left of epoch 1: one step of 8, 4 remain
        pytest.param({"batch_size": 2}, [22, 24, 26, 28, 30, 32], 11, marks=pytest.mark.slow),
        pytest.param({"accumulate_steps": 2}, [28, 36, 44], 8, marks=pytest.mark.slow),
    ],
)
def test_another_batch_size_resumes_at_the_same_example(
    stage1, small_config, tmp_path, monkeypatch, changes, examples, total_steps
):
    seen = []
    original = RunData._train_views
    monkeypatch.setattr(
        RunData,
        "_train_views",
        lambda self, epoch, index: seen.append((epoch, int(index))) or original(self, epoch, index),
    )
    epochs = 3 if len(examples) == 3 else 2
    changed = small_config(resume_from=f"{stage1}@step=5", max_epochs=epochs, **changes)
    train(changed, tmp_path)
    rows = train_rows(tmp_path)
    assert [row["examples_seen"] for row in rows] == examples
    assert rows[-1]["step"] == total_steps
    # The schedule ends with the run, however many steps that now is, and its phase continues.
    seen_before = RunProgress(step=5, epoch=1, examples_in_epoch=BATCH, examples_seen=5 * BATCH)
    schedule = make_schedule(changed, timeline_of(changed, STEPS_PER_EPOCH * BATCH, seen_before))
    for row in rows:
        assert row["learning_rate"] == pytest.approx(float(schedule(row["step"] - 1)), rel=1e-4)
    # In the current epoch, each example that the first run has not seen, once.
    in_epoch = {index for epoch, index in seen if epoch == 1}
    order = np.random.default_rng((changed.seed, 1, 0)).permutation(STEPS_PER_EPOCH * BATCH)
    step = changed.batch_size * changed.accumulate_steps
    assert in_epoch == set(order[BATCH : BATCH + 12 // step * step].tolist())


@pytest.mark.slow
def test_formulas_are_replaced_from_the_right_epoch(small_config, tmp_path):
    """Stage 2 from the end of epoch 0 equals a run configured to replace formulas in epoch 1.

    `input_pipeline/test_views.py` has the texts of each epoch.
    """
    replaced = {"replace_formula_prob": 1.0, "replace_formula_start_epoch": 0}
    train(small_config(replace_formula_prob=0.0), tmp_path / "plain")
    stage2 = small_config(resume_from=f"{tmp_path / 'plain'}@epoch=0", **replaced)
    train(stage2, tmp_path / "stage2")
    undisturbed = small_config(**(replaced | {"replace_formula_start_epoch": 1}))
    train(undisturbed, tmp_path / "undisturbed")
    resumed = arrays_at(tmp_path / "stage2", 8)
    assert_same(resumed, arrays_at(tmp_path / "undisturbed", 8))
    plain = arrays_at(tmp_path / "plain", 8)
    assert any(np.any(leaf != plain[path]) for path, leaf in resumed.items())


def test_another_augmentation_changes_the_next_step_and_not_the_state_before(
    stage1, small_config, tmp_path
):
    train(small_config(resume_from=f"{stage1}@step=7", augment__sentence_keep_prob=1.0), tmp_path)
    (row,) = train_rows(tmp_path)
    assert untimed(row) != untimed(train_rows(stage1)[7])
    assert row["learning_rate"] == train_rows(stage1)[7]["learning_rate"]


@pytest.mark.parametrize(
    "name", ["adam", *(pytest.param(name, marks=pytest.mark.slow) for name in ("sgd", "lion"))]
)
def test_another_optimizer_keeps_parameters_step_and_epoch(stage1, small_config, tmp_path, name):
    # With a learning rate of 0, the parameters after a step are the restored ones.
    changed = small_config(
        resume_from=f"{stage1}@step=7", optimizer__name=name, learning_rate=0.0, weight_decay=0.0
    )
    train(changed, tmp_path)
    before, after = arrays_at(stage1, 7), arrays_at(tmp_path, 8)
    for path in after:
        if path.startswith("params/"):
            np.testing.assert_array_equal(after[path], before[path], err_msg=path)
    assert after["step"] == 8
    counts = {int(leaf) for path, leaf in after.items() if f"/{name}/count" in path}
    assert counts == {"adam": {8}, "lion": {1}, "sgd": set()}[name]
    (row,) = train_rows(tmp_path)
    assert (row["step"], row["epoch"]) == (8, 1)


def test_another_architecture_is_refused_and_then_taken_in_part(stage1, small_config, tmp_path):
    changes = {"text_encoder__config__num_hidden_layers": 2, "projection_dim": 8, "max_epochs": 3}
    with pytest.raises(TreeMismatchError) as error:
        train(small_config(resume_from=str(stage1), **changes), tmp_path)
    flags = "--config.restore.strict=False --config.restore.on_shape_mismatch=skip"
    assert flags in str(error.value)
    assert not step_folders(epath.Path(tmp_path) / "checkpoints")

    accepted = {"restore__strict": False, "restore__on_shape_mismatch": "overlap"}
    still = {"learning_rate": 0.0, "weight_decay": 0.0}  # the parameters stay as restored
    still["checkpoint__every_n_steps"] = 1
    train(small_config(resume_from=str(stage1), **changes, **accepted, **still), tmp_path)
    before, after = arrays_at(stage1, 8), arrays_at(tmp_path, 9)
    params = {path for path in after if path.startswith("params/")}
    for path in params & set(before):
        sizes = zip(after[path].shape, before[path].shape, strict=True)
        common = tuple(slice(min(pair)) for pair in sizes)
        np.testing.assert_array_equal(after[path][common], before[path][common], err_msg=path)
    report = json.loads((tmp_path / "restore_report.json").read_text())
    new = {a["path"] for a in report["arrays"] if a["outcome"] == "initialized"}
    assert params - set(before) == {path for path in new if path.startswith("params/")}
    assert all("layer_1" in path for path in params - set(before))


@pytest.mark.slow
def test_another_graph_encoder(stage1, small_config, tmp_path):
    """The text side and the heads of a run can be reused with another crystal encoder."""
    changed = small_config(
        resume_from=str(stage1),
        graph_encoder__name="painn",
        restore__parts=("params", "batch_stats"),
        restore__strict=False,
        learning_rate=0.0,
        weight_decay=0.0,
        max_epochs=1,
    )
    train(changed, tmp_path)
    before, after = arrays_at(stage1, 8), arrays_at(tmp_path, 4)
    for path, leaf in after.items():
        if path.startswith(("params/text_encoder", "params/cross_head")):
            np.testing.assert_array_equal(leaf, before[path], err_msg=path)
    assert any("graph_encoder/message_0" in path for path in after)
    assert after["step"] == 4
