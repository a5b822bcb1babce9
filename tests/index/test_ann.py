"""The approximate index: same bytes from the same seed, recall, and refusal of other vectors."""

import numpy as np
import pytest
from helpers import user_tables
from helpers.stub_model import StubModel

from clac_jax.index import ann
from clac_jax.index.ann import AnnError, AnnOptions, build_ann, open_ann
from clac_jax.index.build import add, embed
from clac_jax.index.layout import ANN, DamagedIndexError, IndexMismatchError
from clac_jax.index.plan import EmbedOptions
from clac_jax.index.store import Index

COUNT = 160


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ann")
    rows = [user_tables.row(k, gpt_text="", gpt_explanation="") for k in range(COUNT)]
    table = user_tables.write(folder / "many.jsonl", rows)
    return embed(StubModel(), [str(table)], folder / "idx", EmbedOptions(shard_rows=100))


def exact(index, queries, k):
    vectors = np.concatenate(list(ann.blocks(index)))
    return np.argsort(-queries @ vectors.T, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("kind", ["flat", "sq8"])
def test_with_all_lists_it_finds_what_the_exact_search_finds(large, kind):
    facts = build_ann(large, AnnOptions(kind=kind, lists=4, nprobe=4))
    assert facts["recall"]["4"] >= (1.0 if kind == "flat" else 0.95)
    queries = next(ann.blocks(large))[:20]
    scores, rows = open_ann(large).search(queries, 3)
    assert (rows[:, 0] == np.arange(20)).all()
    np.testing.assert_allclose(scores[:, 0], 1.0, atol=0.02)
    if kind == "flat":
        np.testing.assert_array_equal(rows, exact(large, queries, 3))
    assert large.check() == []


def test_the_recall_is_that_of_a_search_with_this_nprobe(large):
    facts = build_ann(large, AnnOptions(lists=4))
    assert facts["nprobe"] == min(int(n) for n, value in facts["recall"].items() if value >= 0.99)
    few = build_ann(large, AnnOptions(lists=4, nprobe=1))
    queries = next(ann.blocks(large, COUNT))
    queries = np.concatenate(list(ann.blocks(large)))
    rows = open_ann(large).search(queries, 10)[1]
    wanted = exact(large, queries, 10)
    hits = [len(set(a) & set(b)) / 10 for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)]
    assert few["recall"]["1"] == pytest.approx(np.mean(hits), abs=1e-4)
    assert few["recall"]["1"] < 1


def test_the_same_seed_gives_the_same_bytes(large):
    built = []
    for seed in (0, 0, 1):
        build_ann(large, AnnOptions(lists=4, seed=seed))
        built.append((large.path / ann.FILE).read_bytes())
    assert built[0] == built[1] != built[2]


def test_it_is_not_read_once_it_is_damaged(large):
    build_ann(large, AnnOptions())
    path = large.path / ann.FILE
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert large.check() == [f"{ann.FILE}: is damaged"]
    with pytest.raises(DamagedIndexError, match=r"ann.faiss is damaged"):
        open_ann(large)
    (large.path / ANN).write_text("{}")
    with pytest.raises(DamagedIndexError, match=r"ann.json was changed"):
        open_ann(large)
    build_ann(large, AnnOptions())
    assert large.check() == []


def test_it_is_refused_once_crystals_were_added(large, tmp_path):
    build_ann(large, AnnOptions())
    table = user_tables.write(tmp_path / "one.jsonl", [user_tables.row(COUNT)])
    longer = add(StubModel(), large.path, [str(table)])
    with pytest.raises(IndexMismatchError, match="built for other vectors"):
        open_ann(longer)
    assert "built for other vectors" in longer.check()[0]


def test_too_few_crystals_bad_options_and_a_missing_extra_are_explained(index, monkeypatch):
    assert open_ann(index) is None
    with pytest.raises(AnnError, match="has 5 crystals, and an approximate index needs 78"):
        build_ann(index, AnnOptions())
    for options in ({"kind": "pq"}, {"lists": -1}, {"nprobe": -1}):
        with pytest.raises(AnnError, match=f"--{next(iter(options))}"):
            AnnOptions(**options)
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(AnnError, match=r'pip install "clac-jax\[ann\]"'):
        build_ann(index, AnnOptions())


def test_too_many_lists_are_refused(large):
    with pytest.raises(AnnError, match="--lists is 99"):
        build_ann(Index(large.path), AnnOptions(lists=99))
