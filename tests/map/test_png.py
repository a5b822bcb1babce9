"""Figures of a map."""

import numpy as np
import pytest
from helpers.stub_index import StubIndex
from matplotlib import image

from clac_jax.map.data import read
from clac_jax.map.layout import MapError
from clac_jax.map.png import CATEGORY_COLOURS, write_pngs


@pytest.fixture(scope="module")
def small():
    return read(StubIndex(60), "pca", 0)


def test_one_file_per_colouring_at_300_dpi(small, tmp_path):
    keys = ["family", "band_gap", "modality", "element:O"]
    files = write_pngs(small, tmp_path / "map.png", keys)
    assert [f.name for f in files] == [
        "map-family.png", "map-band_gap.png", "map-modality.png", "map-element-O.png",
    ]  # fmt: skip
    pictures = [image.imread(file) for file in files]
    assert {picture.shape[:2] for picture in pictures} == {(1680, 2100)}
    # The colours of oxides, and of crystals and texts, are on the figures.
    blue = np.array([int(CATEGORY_COLOURS[0][i : i + 2], 16) for i in (1, 3, 5)]) / 255
    for picture in (pictures[0], pictures[2], pictures[3]):
        assert (np.abs(picture[..., :3] - blue).max(axis=-1) < 0.12).sum() > 200


def test_one_colouring_keeps_the_name_and_the_same_map_the_same_bytes(small, tmp_path):
    (file,) = write_pngs(small, tmp_path / "a.png", ["own_rank"])
    assert file == tmp_path / "a.png"
    write_pngs(small, tmp_path / "b.png", ["own_rank"])
    assert file.read_bytes() == (tmp_path / "b.png").read_bytes()


def test_unknown_colourings_are_refused_before_anything_is_written(small, tmp_path):
    with pytest.raises(MapError, match="'gap' is not a column"):
        write_pngs(small, tmp_path / "map.png", ["family", "gap"])
    with pytest.raises(MapError, match="No crystal of the index contains 'Xx'"):
        write_pngs(small, tmp_path / "map.png", ["element:Xx"])
    assert not list(tmp_path.iterdir())
