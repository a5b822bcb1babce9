"""Copies in LanceDB and Qdrant, by their embedded engines: counts, neighbours and filters."""

import sys

import numpy as np
import pytest
from helpers import user_tables
from helpers.stub_model import StubModel

from clac_jax.index.build import embed
from clac_jax.index.export import ExportError, export
from clac_jax.index.plan import EmbedOptions

COUNT = 30


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    rows = [user_tables.row(k, gpt_text=f"Salt {k}.") for k in range(COUNT)]
    rows[3] |= {"gpt_text": "", "gpt_explanation": ""}
    table = user_tables.write(folder / "many.jsonl", rows)
    return embed(StubModel(), [str(table)], folder / "my idx", EmbedOptions(shard_rows=20))


@pytest.fixture(scope="module")
def query():
    return StubModel().embed_texts(["a salt"])[0]


def nearest(index, query, keep=lambda item: True):
    """Ids of the 10 crystals nearest to a vector, by numpy."""
    vectors = np.concatenate(index.vector_shards()).astype(np.float32)
    scores = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) @ query
    items = index.items(["id", "band_gap"]).to_pylist()
    best = [items[row] for row in np.argsort(-scores) if keep(items[row])]
    return [item["id"] for item in best[:10]]


def test_lancedb_holds_all_and_finds_the_same(many, query, tmp_path):
    lancedb = pytest.importorskip("lancedb")
    assert export(many, "lancedb", str(tmp_path / "db")) == COUNT
    table = lancedb.connect(str(tmp_path / "db")).open_table("my_idx")
    assert table.count_rows() == COUNT
    assert table.schema.metadata[b"clac_jax model"].decode() == StubModel().checksum

    def search(column="vector"):
        found = table.search(query.tolist(), vector_column_name=column)
        return found.distance_type("cosine").limit(10)

    assert [row["id"] for row in search().to_list()] == nearest(many, query)
    filtered = search().where("band_gap > 15", prefilter=True).to_list()
    assert [row["id"] for row in filtered] == nearest(many, query, lambda i: i["band_gap"] > 15)
    assert "Salt" in search("text_vector").to_list()[0]["text"]
    with pytest.raises(ExportError, match=r"Table 'my_idx' already exists.*--name"):
        export(many, "lancedb", str(tmp_path / "db"))
    assert export(many, "lancedb", str(tmp_path / "db"), "other") == COUNT


def test_qdrant_holds_all_and_finds_the_same(many, query, tmp_path):
    qdrant = pytest.importorskip("qdrant_client")
    from qdrant_client import models

    assert export(many, "qdrant", f"path:{tmp_path / 'db'}") == COUNT
    with pytest.raises(ExportError, match="it exists already"):
        export(many, "qdrant", f"path:{tmp_path / 'db'}")
    client = qdrant.QdrantClient(path=str(tmp_path / "db"))
    try:
        assert client.count("my_idx").count == COUNT

        def search(condition=None):
            found = client.query_points(
                "my_idx", query=query.tolist(), using="vector", limit=10, query_filter=condition
            )
            return [point.payload["id"] for point in found.points]

        assert search() == nearest(many, query)
        above = models.FieldCondition(key="band_gap", range=models.Range(gt=15))
        filtered = search(models.Filter(must=[above]))
        assert filtered == nearest(many, query, lambda item: item["band_gap"] > 15)
        (point,) = client.retrieve("my_idx", [3], with_payload=True, with_vectors=True)
        assert (point.payload["id"], point.payload["text"]) == ("m-3", None)
        assert "text_vector" not in point.vector
    finally:
        client.close()


def test_an_error_of_the_database_is_one_line(many):
    with pytest.raises(ExportError, match=r"Qdrant cannot write 'my_idx' to http://127.0.0.1:9"):
        export(many, "qdrant", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("target", "module"), [("lancedb", "lancedb"), ("qdrant", "qdrant_client")]
)
def test_a_missing_extra_is_named(many, target, module, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ExportError, match=rf'pip install "clac-jax\[{target}\]"'):
        export(many, target, str(tmp_path / "db"))


def test_an_unknown_database_is_refused(many):
    with pytest.raises(ExportError, match=r"no target 'milvus'. Use lancedb or qdrant"):
        export(many, "milvus", "x")
