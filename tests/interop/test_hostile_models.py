"""Damaged or hostile model folders are refused with one line, in bounded memory."""

import json
import os
import shutil
import struct
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from helpers.torch_writer import save
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

from clac_jax.cli import main as cli
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.files.huggingface import PretrainedError, resolve_folder
from clac_jax.files.safetensors import SafetensorsError, read_safetensors
from clac_jax.models.graph.orb import OrbSettings
from clac_jax.models.text.pretrained import load_huggingface, load_huggingface_config, load_tensors
from clac_jax.text.sentences import Tokenizer, TokenizerError

FOLDERS = Path(__file__).parents[1] / "data" / "lightning"


def assert_one_line(error):
    assert "\n" not in str(error) and len(str(error)) < 700


@pytest.fixture(params=["hf_bert", "hf_opt"])
def folder(tmp_path, request):
    return Path(shutil.copytree(FOLDERS / request.param, tmp_path / "model"))


def safetensors(path, header, data=b"", length=None):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    length = len(header) if length is None else length
    path.write_bytes(struct.pack("<Q", length) + header + data)
    return path


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])).map(lambda name: f"tensor {name}"),
        st.sampled_from(["f4", "f8", "f2", "i8", "i4", "u1", "?"]).flatmap(
            lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0, max_side=4))
        ),
    )
)
def test_files_written_by_the_safetensors_package_are_read(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("tensors") / "model.safetensors"
    save_file(tensors, path, metadata={"who": "me"})
    found, metadata = read_safetensors(path)
    assert metadata == {"who": "me"} and set(found) == set(tensors)
    for name, tensor in load_file(path).items():
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def test_bfloat16_is_read(tmp_path):
    numbers = np.array([1.5, -2], ml_dtypes.bfloat16)
    path = safetensors(tmp_path / "a.safetensors", {"a": entry("BF16", (2,))}, numbers.tobytes())
    assert read_safetensors(path)[0]["a"].tolist() == [1.5, -2]


TWO = {"a": entry(), "b": entry(offsets=(4, 8))}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        (b"", b"", 0),
        (TWO, bytes(8), 1 << 63),
        (TWO, bytes(8), (1 << 64) - 1),
        (TWO, bytes(8), 10_000),
        (b"[" * 100_000, b"", None),
        (b'{"a":' * 50_000, b"", None),
        (b"[]", b"", None),
        (b'{"\xff":1}', b"", None),
        (b"\xef\xbb\xbf{}", b"", None),
        ({"a": 1}, b"", None),
        ({"a": entry(dtype="F8_E4M3", shape=(4,))}, bytes(4), None),
        ({"a": entry(dtype=["F32"])}, bytes(4), None),
        ({"a": entry(shape=(-1,))}, bytes(4), None),
        ({"a": entry(shape=(1.0,))}, bytes(4), None),
        ({"a": entry(shape=(True,))}, bytes(4), None),
        ({"a": entry(shape=(1,) * 100)}, bytes(4), None),
        ({"a": entry(shape=(1 << 31, 1 << 31, 4))}, bytes(4), None),
        ({"a": entry(shape=(1 << 63,), offsets=(0, 1 << 65))}, bytes(4), None),
        ({"a": entry(shape=(0, 1 << 63), offsets=(0, 0))}, b"", None),
        ({"a": entry(shape=(0, 1 << 61), offsets=(0, 0))}, b"", None),
        ({"a": entry(offsets=(0, 8))}, bytes(8), None),
        ({"a": entry(offsets=(4, 0))}, bytes(4), None),
        ({"a": entry(offsets=(0, 4, 8))}, bytes(4), None),
        ({"a": entry(), "b": entry()}, bytes(4), None),
        ({"a": entry(), "b": entry(offsets=(2, 6))}, bytes(6), None),
        ({"a": entry(offsets=(4, 8))}, bytes(8), None),
        ({"a": entry()}, bytes(5), None),
        ({"a": entry()}, bytes(3), None),
        ({"a": entry(), "__metadata__": {"x": 1}}, bytes(4), None),
        (b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(4), None),
    ],
)
def test_invalid_safetensors_are_refused_in_one_line(tmp_path, header, data, length):
    path = safetensors(tmp_path / "a.safetensors", header, data, length)
    tracemalloc.start()
    with pytest.raises(SafetensorsError) as caught:
        read_safetensors(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert_one_line(caught.value)


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "..", "", "a\0b", 7, ["a"]])
def test_an_index_may_only_name_files_in_its_folder(folder, name):
    (folder / "model.safetensors").rename(folder.parent / "a.safetensors")
    index = {"weight_map": {"a": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(PretrainedError, match=r"index\.json cannot be read") as caught:
        load_tensors(folder)
    assert_one_line(caught.value)


@pytest.mark.parametrize("text", ["[]", '{"weight_map": []}', "{}", "[" * 100_000, '"\\ud800"'])
def test_an_invalid_index_is_refused(folder, text):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(PretrainedError, match=r"index\.json cannot be read"):
        load_tensors(folder)


VALUES = (
    None,
    "x",
    -1,
    0,
    2**70,
    10**400,
    float("nan"),
    float("inf"),
    [],
    {},
    True,
    1.5,
    "x" * 9999,
)


def test_any_value_in_config_json_is_usable_or_refused_in_one_line(folder):
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for key in values:
        for value in VALUES:
            path.write_text(json.dumps(values | {key: value}))
            try:
                sizes = load_huggingface_config(folder)
            except PretrainedError as error:
                assert_one_line(error)
            else:
                assert 0 < sizes.num_hidden_layers < 10_000_000 and sizes.hidden_size > 0


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"\xff", b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}", b"{}\0", b'"\\ud800"'],
)
def test_an_invalid_config_json_is_refused(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(PretrainedError, match=r"config\.json is not valid JSON"):
        load_huggingface_config(folder)


def test_a_byte_order_mark_in_config_json_is_ignored(folder):
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    load_huggingface(folder)


def test_only_regular_files_are_opened(folder):
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    for read in (load_huggingface_config, load_tensors, Tokenizer.from_folder):
        with pytest.raises(UserError, match="not a file"):
            read(folder)


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "~no-such-user/x", "a\nb"])
def test_impossible_folder_names_are_refused(name):
    with pytest.raises(UserError) as caught:
        resolve_folder(name)
    assert_one_line(caught.value)


def test_integers_are_not_weights(folder):
    tensors = load_file(folder / "model.safetensors")
    name = next(
        name for name in tensors if name.endswith(("attention.self.query.weight", "fc1.weight"))
    )
    save_file(tensors | {name: tensors[name].astype(np.int32)}, folder / "model.safetensors")
    with pytest.raises(PretrainedError, match="numbers of the type int32, not floats"):
        load_huggingface(folder)


def test_a_torch_file_without_tensors_by_name_is_refused(tmp_path, folder):
    (folder / "model.safetensors").unlink()
    settings = OrbSettings(num_features=16, hidden_features=24, num_interactions=2)
    for content in ([np.ones(3)], {1: np.ones(3)}, np.ones(3), None):
        save(content, folder / "pytorch_model.bin")
        with pytest.raises(PretrainedError, match="does not hold tensors by name"):
            load_huggingface(folder)
        with pytest.raises(PretrainedError, match="does not hold an ORB v3"):
            settings.pretrained_params(folder / "pytorch_model.bin")


def test_the_command_reports_a_folder_without_tensors_in_one_line(folder, capsys):
    save_file({"a": np.ones(3, np.float32)}, folder / "model.safetensors")
    assert cli.main(["import", "huggingface", str(folder)]) == EXIT_USER_ERROR
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1


def with_tokenizer(folder, change):
    path = folder / "tokenizer.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))
    return Tokenizer.from_folder(folder)


def huge_id(values):
    values["model"]["vocab"]["quite another token"] = (1 << 32) - 1


@pytest.mark.parametrize(
    "change",
    [
        lambda values: values.update(model={}),
        lambda values: values.update(model=7),
        lambda values: values["model"].update(vocab={}),
        lambda values: values["model"].update(vocab={"a": 1 << 40}),
        lambda values: values["model"].update(vocab={"a": -1}),
        lambda values: values.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}}),
        lambda values: values.update(normalizer={"type": "Sequence", "normalizers": 7}),
        lambda values: values.update(added_tokens={}),
        lambda values: values["model"].update(unk_token="nothing"),
        lambda values: values.update(version="9"),
        huge_id,
    ],
)
def test_an_invalid_tokenizer_json_is_refused_in_one_line(folder, change):
    with pytest.raises(TokenizerError) as caught:
        with_tokenizer(folder, change)
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "text", ["[]", "7", "[" * 100_000, '{"pad_token": 7}', '{"pad_token": {}}']
)
def test_an_invalid_tokenizer_config_is_refused_or_ignored(folder, text):
    (folder / "tokenizer_config.json").write_text(text)
    try:
        assert Tokenizer.from_folder(folder).vocab_size > 0
    except TokenizerError as error:
        assert_one_line(error)
        assert not text.startswith("{")


@pytest.mark.parametrize("settings", [{"do_lower_case": "x"}, {"strip_accents": []}, []])
def test_settings_of_a_wordpiece_vocabulary_are_checked(tmp_path, settings):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_folder(tmp_path)
    assert_one_line(caught.value)
