"""`clac-jax ckpt plan`: from names and shapes of real configs, without reading any array."""

import json
import re
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath
from helpers.paths import ROOT
from helpers.torch_writer import save

from clac_jax.checkpoint.files import SMALL_FILE
from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.opening import open_sources
from clac_jax.checkpoint.plan import make_plan
from clac_jax.checkpoint.restore import restore_plan
from clac_jax.cli.main import main
from clac_jax.config.check import ready
from clac_jax.config.schema import to_json
from clac_jax.config.shipped import config_named, shipped_config
from clac_jax.files.torch import read_torch_file
from clac_jax.interop.lightning import read_lightning
from clac_jax.interop.reference_weights import model_params, model_statistics
from clac_jax.merging.model_shapes import shapes_of_config
from clac_jax.models.encoders import text_settings
from clac_jax.training.progress import RunProgress


@pytest.fixture(scope="module")
def shapes():
    return shapes_of_config(ready(shipped_config("smoke")))


def saved(workdir, shapes):
    """A checkpoint with arrays of these shapes, all of them different."""
    rng = np.random.default_rng(0)
    arrays = {
        path: rng.normal(size=leaf.shape).astype(leaf.dtype)
        if leaf.dtype == np.float32
        else np.ones(leaf.shape, leaf.dtype)
        for path, leaf in shapes.items()
    }
    arrays["step"] = np.asarray(3, np.int32)
    checkpoints = Checkpoints(workdir, shipped_config("smoke"), shapes, 32)
    checkpoints.save(arrays, RunProgress(step=3), None)
    checkpoints.close()
    return arrays


@pytest.fixture(scope="module")
def older(tmp_path_factory, shapes):
    """(workdir, its arrays) of a run whose graph encoder and whose heads had other names."""
    workdir = tmp_path_factory.mktemp("older")
    renamed = {
        path.replace("graph_encoder/message_", "graph_encoder/block/").replace(
            "/cross_head/", "/joint_head/"
        ): leaf
        for path, leaf in shapes.items()
    }
    return workdir, saved(workdir, renamed)


def test_a_plan_reads_no_array(older, capsys, tmp_path):
    """Even one whose bytes are all overwritten, and whose files keep their sizes."""
    info = read_info(epath.Path(older[0]) / "checkpoints" / "3")
    copy, overwritten = tmp_path / "checkpoints" / "3", 0
    for path in Path(info.folder).rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(Path(info.folder))
            target.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes()
            # Small files are compared with their checksums, and Orbax's descriptions are read.
            if path.parent.name == "d" and len(content) > SMALL_FILE:
                overwritten += 1
                content = b"\0" * len(content)
            target.write_bytes(content)
    assert main(["ckpt", "plan", str(tmp_path), "--config=smoke"]) == 1
    assert overwritten and "message_0" in capsys.readouterr().out


def test_the_written_config_leaves_nothing_open_and_restores_what_the_plan_said(
    older, shapes, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    workdir, arrays = older
    arguments = ["--config=smoke", "--config.max_epochs=5", "--write=new.py"]
    assert main(["ckpt", "plan", str(workdir), *arguments]) == 1
    printed = capsys.readouterr().out
    assert "then      nothing is open" in printed
    config = config_named("new.py")
    assert config.max_epochs == 5 and config.resume_from == str(workdir)
    assert main(["ckpt", "plan", "--config=new.py", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["open"] == 0 and plan["proposed"] == {}
    assert sorted(a["path"] for a in plan["arrays"] if a["path"]) == sorted(shapes)
    assert sorted(a["source"] for a in plan["arrays"] if a["source"]) == sorted(arrays)

    config.restore.sources = (
        {"from": config.resume_from, "parts": config.restore.parts, "rules": config.restore.rules},
    )
    sources = open_sources(config.restore)
    restored = restore_plan(make_plan(sources, shapes), shapes, lambda: {}).arrays
    for array in plan["arrays"]:
        np.testing.assert_array_equal(restored[array["path"]], arrays[array["source"]])


def test_a_flag_may_unset_a_key(same_names, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("text_encoder.num_layers", "graph_encoder.cutoff", "text_encoder.pretrained")
    flags = [f"--config.{name}=None" for name in names]
    _, config, _ = written_plan([same_names, *flags], capsys)
    assert config_named("smoke").graph_encoder.cutoff == 4.0
    assert config.graph_encoder.cutoff is config.text_encoder.num_layers is None
    assert config.text_encoder.pretrained is None


def test_content_pairs_what_names_do_not(older, shapes, capsys, tmp_path):
    """Arrays of equal shape and unlike names: only their content says which is which."""
    head = "params/visual_head/left/"
    odd = {path.replace(head, "params/zz/q"): leaf for path, leaf in shapes.items()}
    odd = {
        f"params/zz/{number}" if path.startswith("params/zz/") else path: leaf
        for number, (path, leaf) in enumerate(odd.items())
    }
    arrays = saved(tmp_path / "odd", odd)
    by_place = dict(zip(odd, shapes, strict=True))
    same = {by_place[path]: array for path, array in arrays.items()}
    checkpoints = Checkpoints(tmp_path / "same", shipped_config("smoke"), shapes, 32)
    checkpoints.save(same, RunProgress(step=3), None)
    checkpoints.close()
    command = ["ckpt", "plan", str(tmp_path / "odd"), "--config=smoke", "--json"]
    main([*command, f"--content={tmp_path / 'same'}"])
    proposed = json.loads(capsys.readouterr().out)["proposed"]["1"]
    pairs = {rule[0].replace("\\", ""): rule[1] for rule in proposed}
    assert len(pairs) == 9
    for old, new in pairs.items():
        assert by_place[f"params/{old}"] == f"params/{new}"


def test_another_width_is_reported_with_the_flags_that_accept_it(older, capsys):
    arguments = ["--config=smoke", "--config.projection_dim=32"]
    assert main(["ckpt", "plan", str(older[0]), *arguments]) == 1
    printed = capsys.readouterr().out
    assert "of a different shape" in printed and "on_shape_mismatch=grow" in printed


def written_plan(arguments, capsys):
    """(what is printed, the config that is written, the plan of that config)."""
    Path("new.py").unlink(missing_ok=True)
    main(["ckpt", "plan", "--config=smoke", *arguments, "--write=new.py"])
    printed = capsys.readouterr().out
    assert main(["ckpt", "plan", "--config=new.py", "--json"]) == 0
    return printed, config_named("new.py"), json.loads(capsys.readouterr().out)


def fresh_in(plan):
    """(path, reason) of the parameters and statistics that come from no source."""
    parts = ("params/", "batch_stats/")
    return {
        (array["path"], array["reason"])
        for array in plan["arrays"]
        if array["outcome"] == "initialized" and array["path"].startswith(parts)
    }


WIDER = ["--config.graph_encoder.num_features=24", "--config.projection_dim=32"]


@pytest.fixture(scope="module")
def same_names(tmp_path_factory, shapes):
    workdir = tmp_path_factory.mktemp("same_names")
    saved(workdir, shapes)
    return str(workdir)


def test_a_written_config_grows_what_differs(same_names, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deeper = "--config.graph_encoder.num_interactions=2"
    printed, config, plan = written_plan([same_names, *WIDER, deeper], capsys)
    assert "proposed  on_shape_mismatch=grow: " in printed
    assert "12 arrays added without effect\nthen      nothing is open" in printed
    assert config.restore.on_shape_mismatch == "grow" and config.restore.strict
    # Nothing starts from scratch but the new layer.
    assert {reason for _, reason in fresh_in(plan)} == {"of an added layer"}
    assert all("_1/" in path for path, _ in fresh_in(plan))
    grown = {array["path"] for array in plan["arrays"] if array["outcome"] == "transformed"}
    assert "params/graph_encoder/readout/kernel" in grown
    assert "batch_stats/cross_head/left/norm/var" in grown


def test_a_layer_more_is_grown_too(same_names, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    deeper = "--config.text_encoder.config.num_hidden_layers=3"
    _, config, plan = written_plan([same_names, deeper], capsys)
    assert config.restore.on_shape_mismatch == "grow" and config.restore.strict
    assert all(reason for _, reason in fresh_in(plan))


def test_a_written_config_says_which_arrays_cannot_be_grown(
    same_names, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    odd = ["--config.graph_encoder.num_features=12", "--config.projection_dim=24"]
    printed, config, plan = written_plan([same_names, *odd], capsys)
    assert "on_shape_mismatch=grow" not in printed
    assert config.restore.on_shape_mismatch == "skip"
    assert fresh_in(plan) and {reason for _, reason in fresh_in(plan)} == {"its shape differs"}
    for text in (printed, Path("new.py").read_text().replace("    # ", "")):
        words = " ".join(text.split())
        assert "12 arrays of cross_head/left, cross_head/right: cross_head/joint cannot" in words
        assert "cannot grow from 16 to 24: a layer norm takes the mean" in words
        assert "17 arrays of graph_encoder/embedding, graph_encoder/message_0, " in words
        assert "graph_encoder/features would shrink from 16 to 12" in words


def test_layers_that_the_model_lacks_are_left_out_and_the_rest_grows(
    same_names, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    fewer = "--config.graph_encoder.num_interactions=0"
    printed, config, plan = written_plan([same_names, *WIDER, fewer], capsys)
    assert '("graph_encoder/message_0/.*", None),  # not in the model' in printed
    assert config.restore.on_shape_mismatch == "grow" and not fresh_in(plan)
    # Without the rules, growth is refused: the larger model would compute something else.
    grow = "--config.restore.on_shape_mismatch=grow"
    assert main(["ckpt", "plan", same_names, "--config=smoke", *WIDER, fewer, grow]) == 2
    assert "growth removes none" in capsys.readouterr().err


def test_no_growth_is_proposed_for_an_embedding_without_its_layers(
    same_names, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    source = {"from": same_names, "only": "text_encoder/word_embedding/.*"}
    _, config, plan = written_plan([f"--config.restore.sources=({source!r},)"], capsys)
    assert config.restore.on_shape_mismatch == "error" and not config.restore.strict
    assert ("params/text_encoder/layer_0_attention/key/kernel", "") in fresh_in(plan)


RELEASE = ROOT / "tests" / "data" / "lightning"
# What the importer of a checkpoint of the release makes of several tensors, or of part of one.
NO_RULE = {
    "painn_bert": (),
    "cgcnn_opt": (
        r"graph_encoder/conv_\d/(receiver|sender|edge)/.*",
        "text_encoder/position_embedding/embedding",
    ),
}


@pytest.mark.parametrize(("name", "texts"), [("painn_bert", "hf_bert"), ("cgcnn_opt", "hf_opt")])
def test_rules_for_a_checkpoint_of_the_release_give_what_its_importer_does(
    name, texts, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    saved = read_torch_file(RELEASE / name / "last.ckpt")["state_dict"]
    tensors = {}
    for tensor, array in saved.items():  # no two of them are equal, as biases after a start are
        rng = np.random.default_rng(zlib.crc32(tensor.encode()))
        numbers = np.asarray(np.abs(rng.normal(size=array.shape)), array.dtype)  # also variances
        tensors[tensor] = numbers if np.issubdtype(array.dtype, np.floating) else array
    save({"state_dict": tensors}, tmp_path / "net.ckpt")
    config = read_lightning(RELEASE / name / "last.ckpt", str(RELEASE / texts)).config
    Path("config.json").write_text(to_json(config))
    assert main(["ckpt", "plan", "net.ckpt", "--config=saved:config.json", "--write=new.py"]) == 1
    assert "a checkpoint of the PyTorch release" in capsys.readouterr().out

    written, expected = ready(config_named("new.py")), {}
    for part, tree in (
        ("params", model_params(tensors, config, text_settings(config))),
        ("batch_stats", model_statistics(tensors, config)),
    ):
        for path, leaf in jax.tree.leaves_with_path(tree):
            key = jax.tree_util.keystr(path, simple=True, separator="/")
            expected[f"{part}/{key}"] = leaf
    shapes = {path: leaf for path, leaf in shapes_of_config(written).items() if path in expected}
    assert shapes.keys() == expected.keys()
    plan = make_plan(open_sources(written.restore), shapes)
    fresh = {m.path for m in plan.matches if m.outcome == "initialized"}
    without = [p for p in shapes if re.fullmatch("|".join(NO_RULE[name]), p.partition("/")[2])]
    assert fresh == set(without) and bool(without) == bool(NO_RULE[name])
    zeros = {path: np.zeros(leaf.shape, leaf.dtype) for path, leaf in shapes.items()}
    restored = restore_plan(plan, shapes, lambda: zeros).arrays
    for path in shapes.keys() - fresh:
        np.testing.assert_array_equal(restored[path], expected[path], err_msg=path)


def test_a_source_of_two_towers(older, shapes, capsys, tmp_path):
    saved(tmp_path / "complete", shapes)
    path = tmp_path / "merge.py"
    path.write_text(
        "from clac_jax.config.shipped import shipped_config\n\n\n"
        "def get_config():\n"
        "    config = shipped_config('smoke')\n"
        "    config.restore.sources = (\n"
        f"        {{'from': {str(older[0])!r}, 'only': 'text_encoder/.*'}},\n"
        f"        {{'from': {str(tmp_path / 'complete')!r}}},\n"
        "    )\n"
        "    return config\n"
    )
    assert main(["ckpt", "plan", f"--config={path}"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"params/text_encoder/word_embedding +1 array .* source 1\n", printed)
    assert re.search(r"params/graph_encoder/readout +2 arrays .* source 2\n", printed)
    assert "unused (source 1 gives it)" in printed


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["x"], "--config is missing"),
        (["--config=smoke"], "nothing to plan from"),
        (["nowhere", "--config=smoke"], "does not exist"),
        (["nowhere", "--config=smok"], "Did you mean 'smoke'"),
        (["nowhere", "--config=smoke", "--config.batchsize=3"], "batchsize"),
    ],
)
def test_arguments_that_cannot_be_used(arguments, words, capsys):
    assert main(["ckpt", "plan", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_rules_from_a_file(older, capsys, tmp_path):
    (tmp_path / "rules").write_text(
        r"(('joint_head/(.*)', r'cross_head/\1'), (r'graph_encoder/block/(.*)', "
        r"r'graph_encoder/message_\1'),)"
    )
    rules = f"--rules={tmp_path / 'rules'}"
    assert main(["ckpt", "plan", str(older[0]), "--config=smoke", rules]) == 0
    (tmp_path / "rules").write_text("import os")
    assert main(["ckpt", "plan", str(older[0]), "--config=smoke", rules]) == 2
    assert "is not a tuple of rules" in capsys.readouterr().err
