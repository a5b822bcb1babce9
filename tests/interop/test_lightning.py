"""Import of two small checkpoints of the PyTorch release, compared with its outputs."""

import functools
import json
import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.packed_texts import pack
from helpers.parity_fixtures import crystal_graphs, graph_batch, relative_error
from helpers.torch_writer import save

from clac_jax.checkpoint.arrays import nested
from clac_jax.cli import main as cli
from clac_jax.config.check import validate
from clac_jax.config.schema import flatten
from clac_jax.errors import UserError
from clac_jax.files.torch import read_torch_file
from clac_jax.interop.lightning import describe, read_lightning
from clac_jax.interop.lightning_file import KEYS, LightningImportError, read_lightning_file
from clac_jax.interop.reference_config import ImportedConfigError, imported_config
from clac_jax.interop.reference_weights import model_params
from clac_jax.models import build_model
from clac_jax.models.encoders import text_settings
from clac_jax.training import optim
from clac_jax.training.schedules import Timeline, make_schedule

FOLDER = Path(__file__).parents[1] / "data" / "lightning"
LANGUAGE_MODELS = {"painn_bert": "hf_bert", "cgcnn_opt": "hf_opt"}


@pytest.fixture(scope="module", params=LANGUAGE_MODELS)
def case(request):
    """(name, the imported run, the outputs of the release)."""
    run = read_lightning(
        FOLDER / request.param / "last.ckpt", str(FOLDER / LANGUAGE_MODELS[request.param])
    )
    with np.load(FOLDER / request.param / "last.npz") as arrays:
        return request.param, run, dict(arrays)


def test_features_and_projections_equal_those_of_the_release(case):
    _, run, expected = case
    model = build_model(run.config, 200)
    tree = nested(run.arrays)
    variables = {"params": tree["params"], "batch_stats": tree["batch_stats"]}
    graphs = graph_batch(crystal_graphs(expected))
    pairs = zip(expected["input_ids"], expected["attention_mask"], strict=True)
    texts = pack([ids[mask > 0].astype(np.int32) for ids, mask in pairs], ((64, 4),))
    crystals = jax.jit(functools.partial(model.apply, method="embed_graphs"))(variables, graphs)[:4]
    words = jax.jit(functools.partial(model.apply, method="embed_texts"))(variables, texts)
    assert relative_error(crystals, expected["out/proj_image"]) < 2e-5
    assert relative_error(words, expected["out/proj_text"]) < 2e-5
    scores = model.apply(variables, crystals, words, method="scores")
    assert relative_error(scores, expected["out/logits"]) < 2e-5


def test_moments_equal_those_of_the_optimizer(case):
    name, run, expected = case
    saved = read_torch_file(FOLDER / name / "last.ckpt")
    names = json.loads(str(expected["optim_param_names"]))
    numbers = dict(zip(names, expected["optim_param_index"], strict=True))
    state = saved["optimizer_states"][0]["state"]
    settings = text_settings(run.config)
    for ours, theirs in (("mu", "exp_avg"), ("nu", "exp_avg_sq")):
        # By the parameter names of the release, independent of the inferred order.
        tensors = {n: state[int(k)][theirs] for n, k in numbers.items() if int(k) in state}
        moments = model_params(tensors, run.config, settings)
        for path, leaf in jax.tree.leaves_with_path(moments):
            path = jax.tree_util.keystr(path, simple=True, separator="/")
            found = run.arrays[f"opt_state/inner_state/adam/{ours}/{path}"]
            np.testing.assert_array_equal(found, leaf, err_msg=path)
    assert any(np.any(run.arrays[p]) for p in run.arrays if "/mu/" in p)
    # Parameters without a gradient have no state there; here it starts at zero.
    counts = {int(run.arrays[path]) for path in run.arrays if "/adam/count/" in path}
    assert counts - {0} == set(map(int, expected["optim_step"]))


def test_resumes_at_the_epoch_and_step(case):
    name, run, _ = case
    assert (run.progress.epoch, run.progress.step, int(run.arrays["step"])) == (2, 6, 6)
    assert run.config.accumulate_steps == (2 if name == "cgcnn_opt" else 1)
    schedule = make_schedule(run.config, Timeline(15, 3))
    # The cosine schedule of the release made two steps of 4 epochs from 2e-5 to 1e-7.
    rate = 1.005e-5 if name == "cgcnn_opt" else 2e-5
    assert float(schedule(6)) == pytest.approx(rate, rel=1e-5)


def test_unmapped_tensors_are_named(case):
    name, run, _ = case
    tensors = [line for line in run.unmapped if line.startswith("tensor ")]
    # The masked-language-model head, which does not exist with lm_weight 0.
    assert bool(tensors) == (name == "painn_bert")
    assert all(".cls.predictions." in line for line in tensors)
    assert any("datamodule.data_path" in line for line in run.unmapped)


def test_the_next_step_is_that_of_adamw(case):
    _, run, _ = case
    params = nested(run.arrays)["params"]
    tx = optim.make_optimizer(run.config, params, lambda _: 1e-3)
    moments = nested(run.arrays)["opt_state"]["inner_state"]["adam"]
    state = jax.tree.map_with_path(
        lambda path, leaf: next(
            (
                jnp.asarray(value)
                for key, value in run.arrays.items()
                if key == "opt_state/" + jax.tree_util.keystr(path, simple=True, separator="/")
            ),
            leaf,
        ),
        jax.jit(tx.init)(params),
    )
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(tx.update)(zeros, state, params)
    for update, mu, nu in zip(
        *map(jax.tree.leaves, (updates, moments["mu"], moments["nu"])), strict=True
    ):
        mean, var = 0.9 * mu / (1 - 0.9**7), 0.999 * nu / (1 - 0.999**7)
        np.testing.assert_allclose(update, -1e-3 * mean / (np.sqrt(var) + 1e-8), rtol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"name": "clip"}}, "loss.name is 'clip'"),
        ({"graph_encoder": {"name": "orb"}}, "graph_encoder.name is 'orb'"),
        ({"optimizer": {"optimizer": {"_target_": "torch.optim.Rprop", "lr": 1}}}, "Rprop"),
    ],
)
def test_unknown_hyperparameters_are_refused(change, message):
    saved = read_torch_file(FOLDER / "painn_bert" / "last.ckpt")
    with pytest.raises(ImportedConfigError, match=message):
        imported_config(saved["hyper_parameters"] | change)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (
            {"_target_": "x.CosineAnnealingWarmRestarts", "T_0": 10, "T_mult": 2, "eta_min": 1e-6},
            {"schedule": "cosine_restarts", "cosine.epochs": 10, "cosine.factor": 2},
        ),
        (
            {"_target_": "x.ReduceLROnPlateau", "factor": 0.5, "patience": 30, "min_lr": 1e-7},
            {"schedule": "plateau", "plateau.patience": 30, "min_learning_rate": 1e-7},
        ),
        (
            {"_target_": "x.OneCycleLR", "max_lr": 1e-3, "pct_start": 0.2, "div_factor": 10.0},
            {"schedule": "one_cycle", "learning_rate": 1e-3, "one_cycle.start_factor": 0.1},
        ),
    ],
)
def test_schedules(scheduler, expected):
    values = read_torch_file(FOLDER / "cgcnn_opt" / "last.ckpt")["hyper_parameters"]
    config = imported_config(values | {"scheduler": scheduler}).config
    found = flatten(config)
    assert {key: found[key] for key in expected} == expected


def test_other_files_are_refused(tmp_path):
    others = {
        "lacks state_dict.* it contains a dict with weights": {"weights": np.ones(3)},
        "lacks state_dict.* a dict with model, epoch": {"model": {"a": np.ones(3)}, "epoch": 1},
        "lacks state_dict.* a tensor of shape": np.ones(3),
        "not those of a graph encoder": {"state_dict": {"a": np.ones(3)}},
    }
    for message, content in others.items():
        save(content, tmp_path / "other.ckpt")
        with pytest.raises(UserError, match=message):
            read_lightning(tmp_path / "other.ckpt")
    # The wrong language model.
    with pytest.raises(UserError, match="set the correct one with --text-encoder"):
        read_lightning(FOLDER / "painn_bert" / "last.ckpt", str(FOLDER / "hf_opt"))


def variant(tmp_path, name, **changes):
    """A copy of a checkpoint with changed top-level values; None removes the key."""
    saved = read_torch_file(FOLDER / name / "last.ckpt") | changes
    path = tmp_path / "variant.ckpt"
    save({key: value for key, value in saved.items() if value is not None}, path)
    return read_lightning(path, str(FOLDER / LANGUAGE_MODELS[name]))


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_checkpoint_with_only_weights_is_imported_and_missing_parts_are_listed(tmp_path, name):
    # Missing with `save_weights_only=True`.
    run = variant(tmp_path, name, optimizer_states=None, lr_schedulers=None, callbacks=None)
    complete = variant(tmp_path, name)
    assert [line.split(":")[0] for line in run.missing] == [
        "optimizer_states",
        "lr_schedulers",
        "callbacks",
    ]
    assert (
        "missing   optimizer_states: the moments and the step count of the optimizer"
        in describe(run, tmp_path)
    )
    assert run.progress == complete.progress and not complete.missing
    assert flatten(run.config) == flatten(complete.config)
    for path, leaf in run.arrays.items():
        # The bias correction belongs to the moments: with the old count, updates were too large.
        starts_at_zero = re.search(r"/(mu|nu|adam/count)(/|$)", path)
        expected = np.zeros_like(leaf) if starts_at_zero else complete.arrays[path]
        np.testing.assert_array_equal(leaf, expected, err_msg=path)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_weights_without_hyperparameters_are_the_same_model(tmp_path, name):
    keys = {key: None for key in (*KEYS, "pytorch-lightning_version", "hparams_name")}
    run, complete = variant(tmp_path, name, **keys), variant(tmp_path, name)
    assert tuple(line.split(":")[0] for line in run.missing) == KEYS
    assert (run.progress.epoch, run.progress.step) == (0, 0)
    groups = ("graph_encoder", "text_encoder", "projection_dim", "use_")
    found, expected = flatten(run.config), flatten(complete.config)
    for key in expected:
        if key.startswith(groups):
            assert found[key] == expected[key], key
    for path in complete.arrays:
        if path.startswith(("params/", "batch_stats/")):
            np.testing.assert_array_equal(run.arrays[path], complete.arrays[path], err_msg=path)


@pytest.mark.parametrize("key", KEYS)
def test_each_missing_key_is_listed_and_not_an_error(tmp_path, key):
    run = variant(tmp_path, "painn_bert", **{key: None})
    assert [line.split(":")[0] for line in run.missing] == [key]
    counts = {int(run.arrays[path]) for path in run.arrays if re.search("/adam/count(/|$)", path)}
    assert counts - {0} == (set() if key == "optimizer_states" else {6})


WRONG = (7, -1, 2**70, float("nan"), "text", [], [3], {"a": 1}, np.ones(3), (), True)


@pytest.mark.parametrize("key", ["state_dict", *KEYS])
def test_a_value_of_the_wrong_type_is_reported_in_one_line_with_its_key(tmp_path, key):
    path = tmp_path / "variant.ckpt"
    saved = read_torch_file(FOLDER / "painn_bert" / "last.ckpt")
    saved |= {"state_dict": {"a": np.ones(2)}, "optimizer_states": []}
    refused = 0
    for value in WRONG:
        save(saved | {key: value}, path)
        try:
            file = read_lightning_file(path)
        except UserError as error:
            assert key in str(error) and "\n" not in str(error)
            refused += 1
        else:
            assert key in ("epoch", "global_step") or value in ([], (), {"a": 1})
            assert file.epoch is not None
    assert refused >= 5


def leaves_of(values, path=()):
    """The paths of all values of nested dicts and lists."""
    items = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in items:
        yield (*path, key)
        if isinstance(value, dict | list) and value:
            yield from leaves_of(value, (*path, key))


def with_value(values, path, value):
    if not path:
        return value
    copy = values.copy()
    copy[path[0]] = with_value(values[path[0]], path[1:], value)
    return copy


@pytest.mark.parametrize("part", ["loops", "optimizer_states", "lr_schedulers", "callbacks"])
def test_a_wrong_value_inside_a_part_is_a_user_error_or_ignored(tmp_path, part):
    path = tmp_path / "variant.ckpt"
    saved = read_torch_file(FOLDER / "cgcnn_opt" / "last.ckpt")
    saved["optimizer_states"][0]["state"] = {0: saved["optimizer_states"][0]["state"][0]}
    saved["state_dict"] = {"a": np.ones(2)}
    places = [p for p in leaves_of(saved[part]) if "params" not in p[:-1]]
    for number, place in enumerate(places):
        changed = with_value(saved[part], place, WRONG[number % len(WRONG)])
        save(saved | {part: changed}, path)
        try:
            read_lightning_file(path)
        except LightningImportError as error:
            assert "\n" not in str(error) and len(str(error)) < 500


def test_a_wrong_hyperparameter_is_a_user_error_or_ignored():
    values = read_torch_file(FOLDER / "cgcnn_opt" / "last.ckpt")["hyper_parameters"]
    for number, place in enumerate(leaves_of(values)):
        try:
            validate(imported_config(with_value(values, place, WRONG[number % len(WRONG)])).config)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 500


def test_a_checkpoint_without_a_language_model_requires_the_flag(tmp_path):
    saved = read_torch_file(FOLDER / "painn_bert" / "last.ckpt")
    del saved["hyper_parameters"]["datamodule"]["tokenizer_model"]
    save(saved, tmp_path / "variant.ckpt")
    with pytest.raises(LightningImportError, match="Set it with --text-encoder"):
        read_lightning(tmp_path / "variant.ckpt")


def test_a_language_model_is_described(tmp_path, capsys):
    shutil.copytree(FOLDER / "hf_opt", tmp_path / "opt")
    assert cli.main(["import", "huggingface", str(tmp_path / "opt")]) == 0
    printed = capsys.readouterr().out
    for words in ("opt, ", "2 layers of 48", "--config.text_encoder.feature=last"):
        assert words in printed
