"""The optimizer of imported checkpoints: settings, state and tensors outside of the model."""

from pathlib import Path

import numpy as np
import pytest
from helpers.torch_writer import save

from clac_jax.files.torch import read_torch_file
from clac_jax.interop.lightning import read_lightning

FOLDER = Path(__file__).parents[1] / "data" / "lightning"
LANGUAGE_MODELS = {"painn_bert": "hf_bert", "cgcnn_opt": "hf_opt"}


def saved_run(name="painn_bert"):
    return read_torch_file(FOLDER / name / "last.ckpt")


def read(saved, tmp_path, name="painn_bert"):
    save(saved, tmp_path / "variant.ckpt")
    return read_lightning(tmp_path / "variant.ckpt", str(FOLDER / LANGUAGE_MODELS[name]))


@pytest.mark.parametrize(
    ("changed", "key", "value"),
    [
        ({"lr": 7e-4}, "learning_rate", 7e-4),
        ({"weight_decay": 0.1}, "weight_decay", 0.1),
        ({"betas": (0.8, 0.999)}, "optimizer.b1", 0.8),
        ({"eps": 1e-6}, "optimizer.eps", 1e-6),
    ],
)
def test_the_settings_that_applied_are_used_and_said(tmp_path, changed, key, value):
    saved = saved_run()
    saved["optimizer_states"][0]["param_groups"][0].update(changed)
    run = read(saved, tmp_path)
    group, _, name = key.rpartition(".")
    assert (run.config[group] if group else run.config)[name] == value
    assert any(note.startswith(f"{key} is {value:g}, as in the state") for note in run.notes)
    if key == "weight_decay":
        assert run.config.optimizer.weight_decays == ((".*", value),)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_equal_settings_are_not_said_and_a_schedule_keeps_its_own_rate(tmp_path, name):
    run = read(saved_run(name), tmp_path, name)
    assert run.config.learning_rate == 2e-5
    assert not any("state of the optimizer" in note for note in run.notes)


def test_several_groups_are_said(tmp_path):
    saved = saved_run()
    (group,) = saved["optimizer_states"][0]["param_groups"]
    first, second = group["params"][:9], group["params"][9:]
    saved["optimizer_states"][0]["param_groups"] = [
        group | {"params": first},
        group | {"params": second, "lr": 1e-3},
    ]
    notes = read(saved, tmp_path).notes
    assert any("has 2 groups of parameters, which differ in lr;" in note for note in notes)


def test_unread_parts_of_the_file_are_listed(tmp_path):
    saved = saved_run()
    for state in saved["optimizer_states"][0]["state"].values():
        state["max_exp_avg_sq"] = np.array(state["exp_avg_sq"])
    saved["optimizer_states"][0]["param_groups"][0]["amsgrad"] = True
    saved["averaging_state"] = {"n_averaged": 5}
    saved["callbacks"]["EMA"] = {"decay": 0.9}
    unmapped = read(saved, tmp_path).unmapped
    assert {
        "optimizer state max_exp_avg_sq",
        "optimizer option amsgrad",
        "part averaging_state",
        "part callbacks.EMA",
    } <= set(unmapped)
    assert not any("pytorch-lightning_version" in line for line in unmapped)


def test_tensors_that_are_not_of_the_model_do_not_count_for_its_optimizer(tmp_path):
    saved = saved_run()
    name = "ema_model.graph_encoder.lin1.weight"
    saved["state_dict"] = {name: np.ones((32, 32), np.float32)} | saved["state_dict"]
    found, expected = read(saved, tmp_path), read(saved_run(), tmp_path)
    assert f"tensor {name}" in found.unmapped
    for path, leaf in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[path], leaf, err_msg=path)
