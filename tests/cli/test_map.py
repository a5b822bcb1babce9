"""`clac-jax map`, from the command line, on an index made by the builder."""

import shutil

import numpy as np
import pytest
from helpers.object_stores import misbehaving_store
from helpers.stub_model import StubModel

from clac_jax.cli.main import main
from clac_jax.index.build import embed
from clac_jax.index.store import Index
from clac_jax.stores.store import open_store

CIF = """data_{name}
_cell_length_a {a}
_cell_length_b {a}
_cell_length_c {a}
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
A1 {first} 0 0 0
B1 {second} 0.5 0.5 0.5
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crystals")
    pairs = (("Cs", "Cl"), ("Cs", "Br"), ("Tl", "I"), ("Ni", "Al"))
    for i, (first, second) in enumerate(pairs):
        text = CIF.format(name=first, a=4.0 + 0.1 * i, first=first, second=second)
        (folder / f"{first}{second}.cif").write_text(text)
    embed(StubModel(), [str(folder)], folder / "idx")
    return folder / "idx"


def test_all_outputs_together(index, tmp_path, capsys):
    out = tmp_path / "map"
    files = [
        f"--png={tmp_path}/m.png",
        "--colour=family,density",
        f"--chemiscope={tmp_path}/m.json",
    ]
    assert main(["map", str(index), f"--out={out}", *files, f"--parquet={tmp_path}/m.parquet"]) == 0
    printed = capsys.readouterr().out
    assert "4 crystals and 0 texts" in printed
    for name in ("map/index.html", "m-family.png", "m-density.png", "m.json", "m.parquet"):
        assert (tmp_path / name).is_file(), name
        assert name in printed


def test_a_figure_by_the_similarity_to_a_query(index, tmp_path, monkeypatch):
    from clac_jax.index import search
    from clac_jax.map import png

    asked, drawn = [], []
    monkeypatch.setattr(search, "model_of", lambda index, name: asked.append(name) or StubModel())
    monkeypatch.setattr(png, "_draw", lambda axes, data, column: drawn.append(column))
    flags = [f"--png={tmp_path}/m.png", "--query=an alloy", "--model=here"]
    assert main(["map", str(index), *flags]) == 0
    assert asked == ["here"] and [column.key for column in drawn] == ["similarity"]
    opened = Index(index)
    crystals = StubModel().embed_crystals([opened.crystal(row) for row in range(4)])
    expected = crystals @ StubModel().embed_texts(["an alloy"])[0]
    np.testing.assert_allclose(drawn[0].values, expected, atol=3e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "There is nothing to write. Add --out FOLDER"),
        (["--out=x", "--colour=family"], "--colour colours the figures of --png"),
        (["--out=x", "--query=oxide"], "--query colours the figures of --png"),
        (["--png={tmp}/m.png", "--colour=famly"], "'famly' is not a column of this index"),
    ],
)
def test_flags_that_do_not_fit(index, tmp_path, capsys, arguments, message):
    flags = [argument.format(tmp=tmp_path) for argument in arguments]
    assert main(["map", str(index), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_map_in_a_bucket_replaces_a_map_and_nothing_else(index, capsys):
    with misbehaving_store() as running, running.activated() as url:
        for _ in range(2):
            assert main(["map", str(index), f"--out={url}/map"]) == 0
        store = open_store(f"{url}/site")
        store.put("index.html", b"My thesis")
        assert main(["map", str(index), f"--out={url}/site"]) == 2
        assert [item.name for item in store.list()] == ["index.html"]
    assert "is not empty and is not a map" in capsys.readouterr().err


def test_a_map_inside_of_its_index_belongs_to_it(index, tmp_path, capsys):
    copy = shutil.copytree(index, tmp_path / "idx")
    assert main(["map", str(copy), f"--out={copy}/map"]) == 0
    assert main(["index", "check", str(copy)]) == 0
    (copy / "map" / "data" / "head.js").unlink()
    assert main(["index", "check", str(copy)]) == 1
    assert "map: not a file of this index" in capsys.readouterr().out


def test_a_folder_that_is_not_an_index(tmp_path, capsys):
    assert main(["map", str(tmp_path), f"--out={tmp_path}/map"]) == 2
    assert "is not an index" in capsys.readouterr().err
