"""Published folders: complete, verified, and equal to the checkpoint bit for bit."""

import hashlib
import json
import os
import shutil
import stat

import jax
import numpy as np
import pytest
from helpers.bucket_copies import FailingPuts, copy_to, flip_bit, names_in
from helpers.object_stores import misbehaving_store
from huggingface_hub import ModelCard

import clac_jax
from clac_jax.checkpoint.locate import CheckpointNotFoundError
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.cli import main as cli
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.files.huggingface import PretrainedError, resolve_folder
from clac_jax.inference.errors import PublishedError
from clac_jax.inference.publish import publish
from clac_jax.stores.errors import UnavailableError
from clac_jax.stores.store import open_store
from clac_jax.training.progress import RunProgress
from configs import smoke

FILES = {
    "README.md",
    "SHA256SUMS",
    "config.json",
    "eval.json",
    "proof.json",
    "model.safetensors",
    "text_encoder/config.json",
    "text_encoder/tokenizer.json",
    "text_encoder/tokenizer_config.json",
}


def files_of(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def published(tested, tmp_path_factory):
    folder = tmp_path_factory.mktemp("published") / "small"
    assert cli.main(["publish", tested, str(folder)]) == 0
    return folder


@pytest.fixture
def copied(published, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(published, tmp_path / "copied")


def test_it_has_every_file_and_nothing_else(published):
    assert files_of(published) == FILES
    before = os.umask(0o022)
    os.umask(before)
    for name in FILES:
        assert stat.S_IMODE((published / name).stat().st_mode) == 0o666 & ~before, name
    assert [path.name for path in published.parent.iterdir()] == [published.name]


def test_it_is_the_checkpoint_bit_for_bit_without_the_language_model(
    run, published, model, crystals, texts, monkeypatch
):
    language_model = run[0].parent / "bert"
    language_model.rename(run[0].parent / "elsewhere")
    try:
        with pytest.raises(UserError, match="bert"):
            clac_jax.load(run[0])
        for name in (published, published / "model.safetensors"):
            loaded = clac_jax.load(name)
            np.testing.assert_array_equal(
                loaded.embed_crystals(crystals), model.embed_crystals(crystals)
            )
            np.testing.assert_array_equal(loaded.embed_texts(texts), model.embed_texts(texts))
    finally:
        (run[0].parent / "elsewhere").rename(language_model)
    assert loaded.checksum == model.checksum
    assert (loaded.step, loaded.config) == (model.step, model.config)


def test_the_checksums_are_those_of_sha256sum(published):
    lines = (published / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    assert set(listed) == FILES - {"README.md", "SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256((published / name).read_bytes()).hexdigest() == digest


def test_the_card_is_one_that_the_hub_understands(published, row_of_test):
    card = ModelCard.load(published / "README.md")
    assert card.data.library_name == "clac-jax" and card.data.license == "cc-by-4.0"
    assert card.data.datasets == ["materials_project_mini"]
    results = {result.metric_type: result for result in card.data.eval_results}
    assert results["text_to_crystal_top3"].metric_value == row_of_test["text_to_crystal_top3"]
    assert results["text_to_crystal_top3"].dataset_split == "test"
    assert "crystal_to_text_top1_no_formula" in results
    assert "seed 42" in card.text and "CC-BY-4.0" in card.text


def test_without_an_evaluation_it_holds_the_test_of_the_run(published, row_of_test):
    values = json.loads((published / "eval.json").read_text())
    assert values["split"] == "test"
    assert values["metrics"]["text_to_crystal_top1"] == row_of_test["text_to_crystal_top1"]


def test_a_checkpoint_that_was_not_tested_has_the_figures_of_its_validation(
    run, row_of_test, tmp_path
):
    step = 2 if row_of_test["checkpoint_step"] != 2 else 4
    folder = publish(f"{run[0]}@step:{step}", tmp_path / "a")
    values = json.loads((folder / "eval.json").read_text())
    assert values["split"] == "validation" and "val_loss" in values["metrics"]


@pytest.fixture
def evaluation(run, model):
    """The eval.json of the checkpoint, for the test to write."""
    there = run[0] / "eval" / str(model.step) / "eval.json"
    there.parent.mkdir(parents=True)
    yield there
    shutil.rmtree(run[0] / "eval")


def evaluated(**data):
    """An eval.json of `clac-jax evaluate --tasks retrieval`, with the value 0.75 everywhere."""
    measures = {f"top{k}": {"value": 0.75} for k in (1, 3, 5, 10)}
    names = ("text_to_crystal", "crystal_to_text", "text_to_crystal_no_formula")
    retrieval = {"pool_size": 99, "by_example": dict.fromkeys(names, measures)}
    data = {"split": "test", "is_that_of_the_training": True} | data
    return json.dumps({"data": data, "tasks": {"retrieval": retrieval}})


def results_of(folder):
    """Name -> value of the figures in the card."""
    results = ModelCard.load(folder / "README.md").data.eval_results
    return {result.metric_type: result.metric_value for result in results}


def test_the_evaluation_of_the_checkpoint_is_published_with_it(evaluation, tested, tmp_path):
    evaluation.write_text(evaluated())
    folder = publish(tested, tmp_path / "a", name="mine", license_="mit")
    assert (folder / "eval.json").read_text() == evaluated()
    card = ModelCard.load(folder / "README.md")
    assert card.data.license == "mit" and card.data.model_name == "mine"
    names = ("text_to_crystal_top{}", "crystal_to_text_top{}", "text_to_crystal_top{}_no_formula")
    expected = {name.format(k): 0.75 for name in names for k in (1, 3, 10)}
    assert results_of(folder) == expected, "not those of the run"
    assert "text to crystal, top-1 of 99" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    "content",
    [
        evaluated(is_that_of_the_training=False),
        evaluated(split="validation"),
        '{"data": {"split": "test"}, "tasks": {"classes": {}}}',
        "{}",
    ],
)
def test_the_card_has_the_test_of_the_run_if_the_evaluation_is_about_something_else(
    evaluation, tested, row_of_test, tmp_path, content
):
    evaluation.write_text(content)
    folder = publish(tested, tmp_path / "a")
    assert results_of(folder) == {
        name: pytest.approx(value, abs=1e-6)
        for name, value in row_of_test.items()
        if name.startswith(("text_to_crystal", "crystal_to_text"))
    }


@pytest.mark.parametrize(
    "content", [b"\xff", b"[]", b'{"data": {"split": "test"}, "tasks": {"retrieval": {"a": 1}}}']
)
def test_an_evaluation_that_cannot_be_read_is_named(evaluation, tested, tmp_path, content):
    evaluation.write_bytes(content)
    with pytest.raises(PublishedError, match=r"eval\.json cannot be read"):
        publish(tested, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_nothing_is_overwritten(tested, published, tmp_path, capsys):
    before = {name: (published / name).read_bytes() for name in FILES}
    for command in (["publish"], ["ckpt", "export"]):
        assert cli.main([*command, tested, str(published)]) == EXIT_USER_ERROR
        assert f"{published} exists" in capsys.readouterr().err
    assert {name: (published / name).read_bytes() for name in FILES} == before
    (tmp_path / "file").write_text("")
    with pytest.raises(PublishedError, match="exists"):
        publish(tested, tmp_path / "file")
    with pytest.raises(PublishedError, match=r"Cannot write .*file/below"):
        publish(tested, tmp_path / "file" / "below")
    (tmp_path / "empty").mkdir()
    assert files_of(publish(tested, tmp_path / "empty")) == FILES


def test_a_language_model_that_is_gone_leaves_no_folder(run, tested, tmp_path):
    language_model = run[0].parent / "bert"
    language_model.rename(run[0].parent / "elsewhere")
    try:
        with pytest.raises(UserError, match="bert"):
            publish(tested, tmp_path / "a")
    finally:
        (run[0].parent / "elsewhere").rename(language_model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", sorted(FILES - {"README.md", "SHA256SUMS"}))
def test_a_flipped_bit_and_a_missing_file_are_named(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(PublishedError, match=f"{name} is not the file that was published"):
        clac_jax.load(copied)
    (copied / name).unlink()
    if name != "model.safetensors":  # without it, it is not a published folder
        with pytest.raises(PublishedError, match=f"{name} is missing"):
            clac_jax.load(copied)


def test_a_card_may_be_edited_and_files_added(copied, model, texts):
    (copied / "README.md").write_text("# Mine")
    (copied / "figure.png").write_bytes(b"x")
    np.testing.assert_array_equal(
        clac_jax.load(copied).embed_texts(texts), model.embed_texts(texts)
    )


def test_a_config_that_was_edited_on_purpose(copied):
    config = json.loads((copied / "config.json").read_text())
    config["text_encoder"]["max_length"] = 8
    (copied / "config.json").write_text(json.dumps(config))
    with pytest.raises(PublishedError, match="delete its line in SHA256SUMS"):
        clac_jax.load(copied)
    lines = (copied / "SHA256SUMS").read_text().splitlines()
    (copied / "SHA256SUMS").write_text(
        "".join(f"{line}\n" for line in lines if not line.endswith("  config.json"))
    )
    assert clac_jax.load(copied).config.text_encoder.max_length == 8


@pytest.mark.parametrize("line", ["x", "0" * 64, f"{'0' * 64}  ../a", f"{'0' * 64}  /etc/passwd"])
def test_a_list_of_checksums_that_is_not_one(copied, line):
    (copied / "SHA256SUMS").write_text(f"{line}\n")
    with pytest.raises(PublishedError, match=r"Line 1 of .*SHA256SUMS is not"):
        clac_jax.load(copied)


def test_a_property_model_has_no_text_encoder(tmp_path):
    config = smoke.get_config()
    config.task, config.property.name = "property", "band gap"
    progress = RunProgress(step=3, epoch=1)
    checkpoints = Checkpoints(
        tmp_path / "run", config, {"params/x": jax.ShapeDtypeStruct((2,), np.float32)}, 8
    )
    checkpoints.save({"params/x": np.ones(2, np.float32)}, progress, {"val_mae": 0.25})
    checkpoints.close()
    folder = publish(str(tmp_path / "run"), tmp_path / "out")
    assert files_of(folder) == {name for name in FILES - {"proof.json"} if "/" not in name}
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("val_mae", 0.25)
    assert (result.task_name, result.dataset_split) == ("Prediction of band gap", "validation")
    assert "Predicts the band gap" in card.text and "model.predict" in card.text

    evaluation = tmp_path / "run" / "eval" / "3" / "eval.json"
    evaluation.parent.mkdir(parents=True)
    values = {"size": 5, "by_example": {"model": {"mae": {"value": 0.5}}}}
    evaluation.write_text(json.dumps({"data": {"split": "test"}, "tasks": {"property": values}}))
    assert results_of(publish(str(tmp_path / "run"), tmp_path / "again")) == {"test_mae": 0.5}


def test_an_export_of_an_earlier_version_is_loaded(copied, model, texts):
    for path in (copied / "SHA256SUMS", copied / "eval.json", copied / "README.md"):
        path.unlink()
    shutil.rmtree(copied / "text_encoder")
    loaded = clac_jax.load(copied)
    np.testing.assert_array_equal(loaded.embed_texts(texts), model.embed_texts(texts))
    assert loaded.checksum == model.checksum


@pytest.fixture(scope="module")
def bucket():
    with misbehaving_store() as running, running.activated() as url:
        yield url


@pytest.fixture(scope="module")
def stored(bucket, run, tested):
    """The URL of the run's tested checkpoint in a bucket."""
    return f"{copy_to(run[0], f'{bucket}/run')}@{tested.rpartition('@')[2]}"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("after", [0, 3, 7])
def test_in_a_bucket_it_is_complete_or_no_model(
    bucket, stored, published, after, cache, monkeypatch
):
    url = f"{bucket}/models/{after}/small"
    with monkeypatch.context() as patched:
        FailingPuts(patched, UnavailableError("The store is away. Wait."), after)
        with pytest.raises(UnavailableError):
            publish(stored, url)
    with pytest.raises(CheckpointNotFoundError, match=f"{url} holds none"):
        clac_jax.load(url)
    for left in names_in(url):
        open_store(url).delete(left)
    assert publish(stored, url) == url
    assert set(names_in(url)) == FILES
    for file in FILES - {"README.md", "SHA256SUMS"}:
        assert open_store(url).get(file).data == (published / file).read_bytes()
    with pytest.raises(PublishedError, match=f"{url} exists"):
        publish(stored, url)


def test_models_are_loaded_from_a_bucket(bucket, stored, published, model, texts, cache):
    url = copy_to(published, f"{bucket}/models/copied")
    expected = model.embed_texts(texts[:2])
    for name in (stored, url):
        loaded = clac_jax.load(name)
        assert loaded.name == name
        np.testing.assert_array_equal(loaded.embed_texts(texts[:2]), expected)
    flip_bit(url, "text_encoder/tokenizer.json")
    with pytest.raises(PublishedError, match=f"{url}/text_encoder/tokenizer.json is not the file"):
        clac_jax.load(f"{url}/model.safetensors")


def test_a_language_model_may_be_in_a_bucket(bucket, run, cache):
    local = run[0].parent / "bert"
    copy = resolve_folder(copy_to(local, f"{bucket}/bert"))
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == {
        p.name: p.read_bytes() for p in local.iterdir()
    }
    with pytest.raises(UserError, match=f"neither an object nor a folder {bucket}/none"):
        resolve_folder(f"{bucket}/none")
    with pytest.raises(PretrainedError, match="one slash"):
        resolve_folder("s3:/bucket/bert")
