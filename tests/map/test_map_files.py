"""The folder of a map: the same bytes for the same index, complete, and with its licences."""

import base64
import gzip
import hashlib
import json
import re
import shutil

import numpy as np
import pytest
from helpers.paths import ROOT
from helpers.stub_index import StubIndex

from clac_jax.map.data import read
from clac_jax.map.layout import MapError
from clac_jax.map.page import quantized, served_page, write_page

ASSETS = ROOT / "clac_jax" / "map" / "assets"


@pytest.fixture(scope="module")
def small():
    return read(StubIndex(40), "pca", 0)


@pytest.fixture(scope="module")
def folder(small, tmp_path_factory):
    path = tmp_path_factory.mktemp("maps") / "map"
    write_page(small, path)
    return path


def block(folder, file, name):
    text = (folder / "data" / f"{file}.js").read_text()
    packed = re.search(rf'ClacMap\.block\("{name}", "(.*?)"\);', text)[1]
    return gzip.decompress(base64.b64decode(packed))


def test_the_same_map_has_the_same_bytes(small, folder, tmp_path):
    write_page(small, tmp_path / "again")
    names = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    again = sorted(
        p.relative_to(tmp_path / "again") for p in (tmp_path / "again").rglob("*") if p.is_file()
    )
    assert names == again
    for name in names:
        assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


def test_blocks_are_the_arrays_of_the_map(small, folder):
    points = np.frombuffer(block(folder, "points", "points"), "<f4").reshape(-1, 2)
    np.testing.assert_array_equal(points[:40], small.layout.crystals)
    np.testing.assert_array_equal(points[40:], small.layout.texts)
    names = json.loads(block(folder, "points", "names"))
    assert names["ids"] == small.ids and names["formulas"] == small.formulas
    sizes = np.frombuffer(block(folder, "structures", "sizes"), "<u4")
    numbers = np.frombuffer(block(folder, "structures", "numbers"), "u1")
    assert sizes.tolist() == [len(z) for _, z, _ in small.structures]
    assert numbers.tolist() == [int(z) for _, zs, _ in small.structures for z in zs]


def test_every_file_that_the_page_loads_is_there_and_none_is_elsewhere(folder):
    page = (folder / "index.html").read_text()
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert "data/vectors.js" in loaded and "3Dmol-min.js" in loaded
    assert not [name for name in loaded if ":" in name or name.startswith("/")]
    assert not [name for name in loaded if not (folder / name).is_file()]
    own = [*(folder / "js").iterdir(), folder / "map.css"]
    for file in own:
        assert not re.findall(r"https?://", file.read_text()), file


def test_scripts_of_the_page_are_short():
    lengths = {p.name: p.read_text().count("\n") for p in (ASSETS / "js").iterdir()}
    assert max(lengths.values()) < 400, lengths


def test_files_of_others_are_those_of_the_list_and_have_a_licence():
    rows = re.findall(
        r"^\| `([^`]+)` .*`([\w.-]+)` \| `(\w{64})` \|$", (ASSETS / "VENDORED.md").read_text(), re.M
    )
    assert [name for name, *_ in rows] == ["3Dmol-min.js"]
    for name, licence, checksum in rows:
        assert hashlib.sha256((ASSETS / name).read_bytes()).hexdigest() == checksum
        assert "BSD-3-Clause" in (ASSETS / licence).read_text()


def test_vectors_of_eight_bits_keep_the_nearest_neighbours():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(500, 64)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes, scales = quantized(vectors)
    assert codes.dtype == np.int8
    back = codes * scales[:, None]
    np.testing.assert_allclose(back, vectors, atol=float(scales.max()) * 0.51)
    exact, rough = ([set(np.argsort(-row)[:10]) for row in v @ v.T] for v in (vectors, back))
    shared = [len(a & b) / 10 for a, b in zip(exact, rough, strict=True)]
    assert np.mean(shared) > 0.95


def test_another_folder_is_not_overwritten_and_a_map_is(small, folder, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(MapError, match=r"is not empty and is not a map. Choose a new folder"):
        write_page(small, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    write_page(small, folder)


def test_a_site_of_the_user_is_not_replaced(small, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "head.js").write_text("var head = 1;")
    (tmp_path / "index.html").write_text("<title>My thesis</title>")
    with pytest.raises(MapError, match=r"is not empty and is not a map"):
        write_page(small, tmp_path)
    assert "My thesis" in (tmp_path / "index.html").read_text()


def test_a_map_that_was_interrupted_is_made_again(small, folder, tmp_path):
    (tmp_path / "data").mkdir()
    shutil.copy(folder / "data" / "head.js", tmp_path / "data")
    write_page(small, tmp_path)
    assert (tmp_path / "index.html").read_bytes() == (folder / "index.html").read_bytes()


def test_a_served_page_knows_its_server(folder, tmp_path):
    assert 'data-service="/"' in served_page(folder)
    assert 'data-service=""' in (folder / "index.html").read_text()
    with pytest.raises(MapError, match=r"is not a map. Make it with `clac-jax map`"):
        served_page(tmp_path)


def test_a_script_in_a_text_stays_text(small, tmp_path):
    import dataclasses

    hostile = dataclasses.replace(small, provenance={**small.provenance, "model": "</script><b>"})
    write_page(hostile, tmp_path / "map")
    assert "</script>" not in (tmp_path / "map" / "data" / "head.js").read_text()
