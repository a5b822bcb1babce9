"""`clac-jax search`, `similarity` and `serve` on a trained model, as a user calls them."""

import csv
import io
import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
from helpers import user_tables
from helpers.object_stores import misbehaving_store
from helpers.stub_model import StubModel
from helpers.user_tables import write

import clac_jax
from clac_jax import datasets
from clac_jax.cli import main as cli
from clac_jax.index import search
from clac_jax.index.build import embed
from clac_jax.index.layout import sealed
from clac_jax.serve import server
from clac_jax.stores.store import open_store
from configs import smoke

ROWS = 12
HOSTS = ["localhost", "127.0.0.1", "[::1]", "127.0.0.1"]


@pytest.fixture(scope="module")
def run(data_dir, tmp_path_factory):
    """A run on a small table of the embedded crystals."""
    folder = tmp_path_factory.mktemp("search")
    split = datasets.load("materials_project_mini", data_dir, "test")
    rows = [row_of(split[k]) for k in range(ROWS)]
    config = smoke.get_config()
    config.dataset.name = "gpt_narratives"
    config.dataset.path = str(write(folder / "table.jsonl", rows))
    config.dataset.data_dir = str(folder / "data")
    config.logging.tensorboard = False
    config.max_epochs, config.batch_size = 1, 2
    config.graph_encoder.name = "composition"  # compiled in the shortest time
    config.use_visual_intramodal_loss = config.use_textual_intramodal_loss = False
    config.compilation_cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    clac_jax.train(config, folder / "run")
    return folder / "run"


def row_of(record):
    return {
        "id": record.material_id,
        "atoms": record.crystal().to_atoms(),
        "gpt_text": record.text_of("narratives", None),
        "band gap": record.properties["band gap"],
    }


@pytest.fixture(scope="module")
def index(run):
    """The index that the first search by the run makes."""
    assert cli.main(["search", str(run), "an oxide", "-k", "1"]) == 0
    (folder,) = (run / "index").iterdir()
    return folder


@pytest.fixture
def clac(capsys):
    """Runs a command: (exit code, output, errors)."""

    def call(*arguments):
        capsys.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    return call


def hits_of(output):
    return json.loads(output, parse_constant=pytest.fail)["hits"]


@pytest.mark.slow
def test_the_index_of_a_run_is_made_once(run, index, clac):
    before = (index / "index.json").stat().st_mtime_ns
    code, output, errors = clac("search", run, "an oxide", "-k", 3, "--format", "json")
    assert code == 0 and "Making" not in errors
    assert (index / "index.json").stat().st_mtime_ns == before
    content = json.loads(output)
    model = clac_jax.load(run)
    assert content["model"]["checksum"] == model.checksum and model.checksum[:8] in index.name
    assert content["index"]["count"] == ROWS


def test_an_empty_query_is_reported_before_an_index_is_made(clac, monkeypatch, tmp_path):
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path))
    code, _, err = clac("search", "mini")
    assert code == 2 and "The query is empty" in err
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_condition_is_reported_before_an_index_is_made(run, clac, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("index"))
    code, _, errors = clac("search", copy, "an oxide", "--where", "bandgap > 3")
    assert code == 2 and "Did you mean band_gap" in errors and "Making" not in errors
    assert not (copy / "index").exists()


def test_hits_are_ranked_as_by_the_model(run, index, clac):
    model, opened = clac_jax.load(run), clac_jax.Index(index)
    crystals = [opened.crystal(row) for row in range(ROWS)]
    cosines = model.embed_texts(["a cubic metal"]) @ model.embed_crystals(crystals).T
    _, output, _ = clac("search", index, "a cubic metal", "-k", ROWS, "--format", "json")
    hits = hits_of(output)
    np.testing.assert_allclose([hit["score"] for hit in hits], np.sort(-cosines[0]) * -1, atol=2e-3)
    np.testing.assert_allclose([cosines[0, hit["row"]] for hit in hits],
                               [hit["score"] for hit in hits], atol=2e-3)  # fmt: skip
    texts = opened.items(["text"])["text"].to_pylist()
    assert all(hit["sentence"] in " ".join(texts[hit["row"]].split()) for hit in hits)
    python = opened.search("a cubic metal", k=ROWS)
    assert [hit.row for hit in python] == [hit["row"] for hit in hits]


def test_the_table_fits_a_terminal(index, clac):
    code, output, _ = clac("search", index, "an oxide", "--where", "n_atoms > 1 and density > 0.1")
    lines = output.splitlines()
    assert code == 0 and max(map(len, lines)) <= 80
    assert "score" in lines[0] and " atoms" in output and "density" in output


def test_csv_has_a_column_for_each_property(index, clac):
    _, output, _ = clac("search", index, "an oxide", "--format", "csv", "-k", 4)
    rows = list(csv.DictReader(io.StringIO(output)))
    assert len(rows) == 4 and {"row", "id", "score", "band_gap", "n_atoms"} <= rows[0].keys()


def test_hits_are_written_as_cif_and_found_again(index, clac, tmp_path):
    folder = tmp_path / "new" / "out"
    _, output, _ = clac("search", index, "salt", "-k", 2, "--cif", folder, "--format", "json")
    files = sorted(folder.iterdir())
    assert [file.name[:3] for file in files] == ["01-", "02-"]
    for hit, file in zip(hits_of(output), files, strict=True):
        assert hit["id"] in file.name and hit["formula"] in file.name
        for query in (file, hit["id"]):
            _, found, _ = clac("search", index, "--crystal", query, "-k", 1, "--format", "json")
            assert hits_of(found)[0]["id"] == hit["id"]
            assert hits_of(found)[0]["score"] == pytest.approx(1, abs=1e-3)


def test_the_hits_of_an_earlier_search_do_not_stay_among_the_files(index, clac, tmp_path):
    with misbehaving_store() as running, running.activated() as url:
        for place in (f"{url}/out", tmp_path / "out"):
            clac("search", index, "salt", "-k", 2, "--cif", place)
            code, _, errors = clac("search", index, "salt", "-k", 1, "--cif", place)
            assert code == 0 and errors == "1 hit of earlier searches removed from --cif\n"
        names = [item.name for item in open_store(f"{url}/out").list()]
    assert names == [path.name for path in (tmp_path / "out").iterdir()] and len(names) == 1
    (tmp_path / "out" / "02-mine.cif").write_text("data_mine")
    _, _, errors = clac("search", index, "salt", "-k", 1, "--cif", tmp_path / "out")
    assert "02-mine.cif in --cif are not hits" in errors
    assert (tmp_path / "out" / "02-mine.cif").read_text() == "data_mine"


def test_hits_of_an_earlier_search_that_were_edited_stay(index, clac, tmp_path):
    clac("search", index, "salt", "-k", 3, "--cif", tmp_path)
    _, second, third = sorted(path.name for path in tmp_path.iterdir())
    edited = (tmp_path / second).read_text() + "# mine\n"
    (tmp_path / second).write_text(edited)
    _, _, errors = clac("search", index, "salt", "-k", 1, "--cif", tmp_path)
    assert "1 hit of earlier searches removed" in errors
    assert f"{second} in --cif are not hits of a search, or were edited, and stay" in errors
    assert (tmp_path / second).read_text() == edited and not (tmp_path / third).exists()


def test_folders_and_links_with_the_name_of_a_hit_stay(index, clac, tmp_path):
    (tmp_path / "10-old.cif").mkdir()
    (tmp_path / "11-gone.cif").symlink_to("nowhere")
    code, _, errors = clac("search", index, "salt", "-k", 1, "--cif", tmp_path)
    assert (code, errors) == (0, "")
    assert len(list(tmp_path.iterdir())) == 3


def test_an_id_cannot_be_a_formula_of_a_spreadsheet_or_break_the_table(clac, tmp_path, monkeypatch):
    names = ["=cmd()", "two\nlines", "\x1b[2Jred", "-1"]
    rows = [user_tables.row(k, id=name, gpt_text=None) for k, name in enumerate(names)]
    embed(StubModel(), [str(write(tmp_path / "t.jsonl", rows))], tmp_path / "idx")
    monkeypatch.setattr(search, "model_of", lambda index, name: StubModel())
    _, output, _ = clac("search", tmp_path / "idx", "salt", "--format", "csv")
    found = {row["id"] for row in csv.DictReader(io.StringIO(output))}
    assert found == {"'=cmd()", "two\nlines", "\x1b[2Jred", "-1"}
    for flags in ([], ["--texts"]):
        _, output, _ = clac("search", tmp_path / "idx", "salt", *flags)
        assert "two lines" in output and "=cmd()" in output and "\x1b" not in output


def test_mixtures_of_everything(index, clac):
    name = clac_jax.Index(index).items(["id"])["id"][3].as_py()
    query = ("search", index, "an oxide", "a metal", "--crystal", name, "--format", "json", "-k", 3)
    _, plain, _ = clac(*query)
    _, other, _ = clac(*query, "--not", "a salt", "--not", "toxic", "--not_weight", 0.2,
                       "--not_weight", 0.9)  # fmt: skip
    assert json.loads(other)["query"]["not"] == ["a salt", "toxic"]
    assert [h["score"] for h in hits_of(plain)] != [h["score"] for h in hits_of(other)]
    _, none, _ = clac(*query, "--min_score", 1.5)
    assert hits_of(none) == []


def test_texts_for_a_crystal(index, clac, tmp_path):
    name = clac_jax.Index(index).items(["id"])["id"][0].as_py()
    (tmp_path / "captions.txt").write_text("an oxide\n\n  a metal \n", encoding="utf-8")
    _, output, _ = clac("search", index, "--crystal", name, "--texts", tmp_path / "captions.txt",
                        "--format", "json")  # fmt: skip
    assert sorted(hit["text"] for hit in hits_of(output)) == ["a metal", "an oxide"]
    code, _, errors = clac("search", index, "--crystal", name, "--texts")
    assert code == 2 and "no vectors of texts" in errors
    table = run_of(index).parent / "table.jsonl"
    assert clac("embed", run_of(index), table, "--out", tmp_path / "idx")[0] == 0
    code, output, _ = clac("search", tmp_path / "idx", "--crystal", name, "-k", 2, "--texts")
    assert code == 0 and max(map(len, output.splitlines())) <= 80
    _, output, _ = clac("search", tmp_path / "idx", "--crystal", name, "--texts", "--format", "csv")
    assert output.startswith("row,id,score,text\n") and len(output) > 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["INDEX"], "The query is empty"),
        (["INDEX", ""], "A text of the query is empty"),
        (["INDEX", "x", "-k", "0"], "k is 0"),
        (["INDEX", "x", "--where", "bandgap > 3"], "Did you mean band_gap"),
        (["INDEX", "x", "--crystal", "gone.cif"], "neither a file nor an id in"),
        (["INDEX", "x", "--not_weight", "1"], "there is none. Add one"),
        (["INDEX", "x", "--model", "RUN@step=99"], "none for @step=99"),
        (["INDEX", "x", "--texts", "gone.txt"], "--texts=gone.txt cannot be read"),
        (["INDEX", "x", "--texts", "--where", "n_atoms > 1"], "--where is about crystals"),
        (["INDEX", "x", "--ann"], "has no approximate index. Build one"),
        (["RUN", "x", "--model", "RUN"], "is not an index, and --model names"),
        (["nothing", "x"], "nothing is not an index .* nor a model"),
    ],
)
def test_mistakes_are_explained(run, index, clac, arguments, words):
    names = {"INDEX": str(index), "RUN": str(run)}
    arguments = [names.get(a, a.replace("RUN@", f"{run}@")) for a in arguments]
    code, output, errors = clac("search", *arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert re.search(words, errors)


def test_similarities_are_those_of_the_model(run, index, clac, tmp_path):
    opened, model = clac_jax.Index(index), clac_jax.load(run)
    names = opened.items(["id"])["id"].to_pylist()[:2]
    (tmp_path / "a.cif").write_text(opened.crystal(5).to_cif())
    _, output, _ = clac("similarity", run, "an oxide", "a metal", "--ids", *names, "--json",
                        "--crystals", tmp_path / "a.cif")  # fmt: skip
    rows = json.loads(output)
    crystals = [opened.crystal(row) for row in (5, 0, 1)]
    logits = model.similarity(["an oxide", "a metal"], crystals).ravel()
    np.testing.assert_allclose([row["logit"] for row in rows], logits, rtol=5e-3, atol=5e-2)
    assert [row["crystal"] for row in rows[1:3]] == names
    code, output, _ = clac("similarity", run, "an oxide", "--ids", *names, "--index", index)
    assert code == 0 and output.count("cosine") == 2
    code, _, errors = clac("similarity", run, "an oxide")
    assert code == 2 and "Give --crystals or --ids" in errors
    code, _, errors = clac("similarity", run, "an oxide", "--ids", "mp-none")
    assert code == 2 and "mp-none is not an id in" in errors


def test_the_index_of_a_different_model_is_refused(run, index, clac, tmp_path):
    (tmp_path / "other").mkdir()
    for file in index.iterdir():
        content = file.read_bytes()
        (tmp_path / "other" / file.name).write_bytes(content)
    contents = json.loads((tmp_path / "other" / "index.json").read_text())
    contents.pop("checksum")
    contents["model"]["checksum"] = "0" * 64
    (tmp_path / "other" / "index.json").write_text(sealed(contents))
    for command in (["search", "OTHER", "x"], ["serve", "OTHER", "--port", "0"]):
        code, _, errors = clac(*[a.replace("OTHER", str(tmp_path / "other")) for a in command])
        assert code == 2 and "was made by the model" in errors


def test_the_server_is_started_with_the_index(index, clac, monkeypatch, tmp_path):
    """Its answers and its end are tested in tests/serve."""
    started = []
    monkeypatch.setattr(server, "serve", lambda *arguments: started.append(arguments))
    code, output, errors = clac("serve", index, "--port", 0)
    searcher, settings, listening = started[0]
    assert code == 0 and searcher.index.path == index and settings.map_folder is None
    assert output.startswith("http://127.0.0.1:") and settings.hosts == HOSTS
    assert listening.fileno() == -1  # closed
    (tmp_path / "index.html").write_text("")
    code, output, errors = clac("serve", run_of(index), "--map", tmp_path, "--host", "0.0.0.0",
                                "--port", 0)  # fmt: skip
    assert code == 0 and "Anyone who can reach" in errors
    assert started[1][1].map_folder == tmp_path and started[1][1].hosts is None


def run_of(index):
    return index.parents[1]


def test_the_server_needs_its_packages_and_its_map(index, clac, monkeypatch, tmp_path):
    code, _, errors = clac("serve", index, "--map", tmp_path)
    assert code == 2 and "has no index.html" in errors
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, errors = clac("serve", index)
    assert code == 2 and 'pip install "clac-jax[serve]"' in errors
