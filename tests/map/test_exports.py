"""Files of other programs: chemiscope and embedding-atlas."""

import gzip
import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers.stub_index import StubIndex

from clac_jax.crystals.crystal import Crystal
from clac_jax.map.data import read
from clac_jax.map.exports import NEIGHBOURS, write_atlas, write_chemiscope
from clac_jax.map.layout import MapError


@pytest.fixture(scope="module")
def index():
    return StubIndex(60)


@pytest.fixture(scope="module")
def small(index):
    return read(index, "pca", 0)


def test_the_input_of_chemiscope_has_structures_and_one_value_each(index, small, tmp_path):
    path = tmp_path / "map.json.gz"
    write_chemiscope(small, path)
    content = json.loads(gzip.decompress(path.read_bytes()))
    assert set(content) == {"meta", "structures", "properties", "settings"}
    assert len(content["structures"]) == 60
    for values in content["properties"].values():
        assert values["target"] == "structure" and len(values["values"]) == 60
        kinds = {type(value) for value in values["values"]}
        assert kinds <= {float} or kinds <= {str}
    gaps = index.items(["band_gap"])["band_gap"].to_pylist()
    for stored, gap in zip(content["properties"]["Band gap"]["values"], gaps, strict=True):
        assert math.isnan(stored) if gap is None else stored == pytest.approx(gap, rel=1e-6)
    assert content["properties"]["Band gap"]["units"] == "eV"
    assert content["settings"]["map"]["color"]["property"] == "Band gap"
    for axis in "xy":
        assert content["settings"]["map"][axis]["property"] in content["properties"]


def test_the_structure_of_chemiscope_is_that_of_the_crystal(index, small, tmp_path):
    path = tmp_path / "map.json"
    write_chemiscope(small, path)
    written = json.loads(path.read_text())["structures"][3]
    row = index.items().slice(3, 1).to_pylist()[0]
    crystal = Crystal.from_arrays(row["lattice"], row["atomic_numbers"], row["frac_coords"])
    assert written["size"] == len(written["names"]) == crystal.num_atoms
    positions = np.array([written["x"], written["y"], written["z"]]).T
    np.testing.assert_allclose(positions, crystal.positions, atol=1e-4)
    np.testing.assert_allclose(np.reshape(written["cell"], (3, 3)), crystal.lattice, atol=1e-5)


def test_chemiscope_opens_no_other_ending(small, tmp_path):
    with pytest.raises(MapError, match=r"does not end in .json or .json.gz"):
        write_chemiscope(small, tmp_path / "map.txt")


def test_the_table_for_embedding_atlas(index, small, tmp_path):
    path = tmp_path / "map.parquet"
    write_atlas(small, path)
    rows = pq.read_table(path).to_pylist()
    crystals = [row for row in rows if row["modality"] == "crystal"]
    texts = [row for row in rows if row["modality"] == "text"]
    assert [len(crystals), len(texts)] == [60, len(small.text_rows)]
    assert crystals[5]["projection_x"] == small.layout.crystals[5, 0]
    assert texts[0]["text"] == " ".join(small.sentences[0])
    assert crystals[6]["text"] is None and crystals[6]["own_rank"] is None
    vectors = np.concatenate(index.vector_shards()).astype(np.float32)
    scores = vectors @ vectors[5]
    scores[5] = -2
    expected = np.argsort(-scores, kind="stable")[:NEIGHBOURS]
    assert crystals[5]["neighbors"]["ids"] == expected.tolist()
    np.testing.assert_allclose(
        crystals[5]["neighbors"]["distances"], 1 - scores[expected], atol=1e-5
    )
