"""The weights of imported checkpoints, under the names that other programs have given them."""

import shutil
from pathlib import Path, PosixPath

import numpy as np
import pytest
from helpers.torch_writer import save
from safetensors.numpy import load_file, save_file

from clac_jax.cli import main as cli
from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.files.huggingface import PretrainedError
from clac_jax.files.torch import read_torch_file
from clac_jax.interop.lightning import read_lightning
from clac_jax.interop.lightning_file import LightningImportError

FOLDER = Path(__file__).parents[1] / "data" / "lightning"
LANGUAGE_MODEL = str(FOLDER / "hf_bert")


def saved_run():
    return read_torch_file(FOLDER / "painn_bert" / "last.ckpt")


def read(saved, tmp_path):
    save(saved, tmp_path / "variant.ckpt")
    return read_lightning(tmp_path / "variant.ckpt", LANGUAGE_MODEL)


VARIANCES = "loss.global_d.img_block.feature_nonlinear.1.running_var"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("graph_encoder.lin1.weight", np.nan, "lin1.weight has numbers that are NaN"),
        ("loss.global_d.img_block.feature_shortcut.weight", np.inf, "shortcut.weight has numbers"),
        (VARIANCES, -1.0, "running_var has negative variances"),
    ],
)
def test_a_weight_that_no_training_leaves_is_named(tmp_path, name, value, message):
    saved = saved_run()
    tensor = saved["state_dict"][name].copy()
    tensor.flat[1] = value
    saved["state_dict"][name] = tensor
    with pytest.raises(LightningImportError, match=message):
        read(saved, tmp_path)


def test_a_moment_that_is_not_finite_is_named(tmp_path):
    saved = saved_run()
    state = saved["optimizer_states"][0]["state"][0]
    state["exp_avg"] = np.full_like(state["exp_avg"], np.nan)
    with pytest.raises(LightningImportError, match=r"exp_avg.*embedding.weight has numbers"):
        read(saved, tmp_path)


def test_float64_becomes_the_float32_of_a_run(tmp_path):
    saved, copies = saved_run(), {}
    for name, tensor in saved["state_dict"].items():
        if tensor.dtype == np.float32:  # tied weights stay tied
            double = copies.setdefault(id(tensor), tensor.astype(np.float64))
            saved["state_dict"][name] = double
    found, expected = read(saved, tmp_path), read(saved_run(), tmp_path)
    for path, leaf in expected.arrays.items():
        assert found.arrays[path].dtype == leaf.dtype != np.float64, path
        np.testing.assert_array_equal(found.arrays[path], leaf, err_msg=path)


def test_a_language_model_with_nan_is_not_recommended(tmp_path, capsys):
    folder = Path(shutil.copytree(LANGUAGE_MODEL, tmp_path / "bert"))
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if name.endswith("query.weight"))
    tensors[name][0, 0] = np.nan
    save_file(tensors, folder / "model.safetensors")
    assert cli.main(["import", "huggingface", str(folder)]) == EXIT_USER_ERROR
    captured = capsys.readouterr()
    assert "query.weight has numbers that are NaN" in captured.err and not captured.out


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_prefix_of_a_wrapper_is_removed_and_said(tmp_path, prefix):
    saved = saved_run()
    tensors = saved["state_dict"]
    saved["state_dict"] = {prefix + name: tensor for name, tensor in tensors.items()}
    found, expected = read(saved, tmp_path), read(saved_run(), tmp_path)
    assert any(repr(prefix) in note for note in found.notes)
    for path, leaf in expected.arrays.items():
        np.testing.assert_array_equal(found.arrays[path], leaf, err_msg=path)


def test_tensors_without_anything_else_are_a_model(tmp_path):
    found, expected = read(saved_run()["state_dict"], tmp_path), read(saved_run(), tmp_path)
    assert "optimizer_states" in found.missing[4]
    for path, leaf in expected.arrays.items():
        if path.startswith("params/"):
            np.testing.assert_array_equal(found.arrays[path], leaf, err_msg=path)


def test_another_language_model_is_proposed_only_for_its_tensors(tmp_path):
    for name, proposed in {
        "graph_encoder.lin1.weight": False,
        "text_encoder.model.bert.encoder.layer.1.output.dense.bias": True,
    }.items():
        saved = saved_run()
        del saved["state_dict"][name]
        with pytest.raises(LightningImportError, match=r"no tensor") as error:
            read(saved, tmp_path)
        assert ("--text-encoder" in str(error.value)) == proposed


def test_the_language_model_of_an_import_is_found_from_any_folder(tmp_path, monkeypatch):
    save(saved_run(), tmp_path / "variant.ckpt")
    shutil.copytree(LANGUAGE_MODEL, tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    encoder = read_lightning("variant.ckpt", "bert").config.text_encoder
    assert encoder.pretrained == encoder.tokenizer == str(tmp_path / "bert")
    with pytest.raises(PretrainedError, match=f"There is no folder 'other one' in '{tmp_path}'"):
        read_lightning("variant.ckpt", "other one")


class TheirPath:
    """Is pickled as a path."""

    def __init__(self, kind):
        self.kind = kind

    def __reduce__(self):
        return self.kind, ("/", "data")


def test_paths_and_scalars_of_numpy_are_read_as_data(tmp_path):
    saved = saved_run()
    saved["hyper_parameters"]["datamodule"]["data_path"] = TheirPath(PosixPath)
    name = next(name for name in saved["callbacks"] if name.startswith("ModelCheckpoint"))
    saved["callbacks"][name] |= {"best_model_score": np.float64(1.5), "dirpath": PosixPath("/a")}
    run = read(saved, tmp_path)
    assert "hyperparameter datamodule.data_path = '/data'" in run.unmapped
