"""Which folders an index may be made in, and what becomes of unfinished work in them."""

import contextlib

import pytest
from helpers import user_tables
from helpers.crystals import NACL
from helpers.interrupted_index import interrupted_at
from helpers.killed_index import contents, killed
from helpers.stub_model import StubModel

from clac_jax.index.build import add, embed
from clac_jax.index.layout import BuildError, IndexFolderError, IndexMismatchError
from clac_jax.index.plan import EmbedOptions

ONE, TWO = EmbedOptions(shard_rows=1), EmbedOptions(shard_rows=2)


@pytest.fixture
def cifs(tmp_path):
    """Two crystals, the second of which is broken."""
    folder = tmp_path / "cifs"
    folder.mkdir()
    (folder / "a.cif").write_text(NACL)
    (folder / "b.cif").write_text("data_x\n")
    return folder


def crystals(path, *numbers):
    return user_tables.write(path, [user_tables.row(k) for k in numbers])


@pytest.mark.parametrize("options", [EmbedOptions(), ONE], ids=["no part yet", "one part"])
def test_corrected_crystals_are_taken_by_the_same_command(cifs, tmp_path, capsys, options):
    out = tmp_path / "out"
    with pytest.raises(BuildError, match="Fix them"):
        embed(StubModel(), [str(cifs)], out, options)
    (cifs / "b.cif").write_text(NACL)
    assert embed(StubModel(), [str(cifs)], out, options).count == 2
    said = capsys.readouterr().err
    assert ("1 part in" in said and "will be made again" in said) == (options is ONE)
    embed(StubModel(), [str(cifs)], tmp_path / "other", options)
    assert contents(out) == contents(tmp_path / "other")


@contextlib.contextmanager
def stopped_before_contents(monkeypatch):
    """Stops the making of an index when all its files but `index.json` are written."""

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("clac_jax.index.join.write_atomically", stop)
        yield


@pytest.fixture
def joined(tmp_path, monkeypatch):
    """A table of three crystals; an index of seven, stopped before `index.json` was written."""
    table = crystals(tmp_path / "a.jsonl", *range(7))
    with stopped_before_contents(monkeypatch):
        embed(StubModel(), [str(table)], tmp_path / "joined", TWO)
    return crystals(table, *range(3)), tmp_path / "joined"


@pytest.mark.slow
def test_corrected_after_the_joining_it_has_no_files_of_the_old_crystals(joined, tmp_path):
    table, folder = joined
    assert (folder / "vectors-00003.npy").exists()
    (tmp_path / "work").mkdir()
    command = ["embed", "stub", str(table), "--out", "INDEX", "--shard_rows", "2"]
    *problems, count = killed(folder, tmp_path / "work", *command)
    assert problems == []
    assert int(count) > 20  # the files of the old crystals, their parts, and all of the new index
    embed(StubModel(), [str(table)], tmp_path / "other", TWO)
    assert contents(tmp_path / "work" / "INDEX") == contents(tmp_path / "other")


def test_parts_that_were_deleted_by_hand_leave_no_files_of_the_old_crystals(joined):
    table, folder = joined
    for part in (folder / "parts").glob("*.part"):
        part.unlink()
    assert embed(StubModel(), [str(table)], folder, TWO).check() == []


def test_a_corrected_addition_has_no_files_of_the_old_crystals(index, tmp_path, monkeypatch):
    table = crystals(tmp_path / "more.jsonl", *range(10, 17))
    before = contents(index.path)
    with stopped_before_contents(monkeypatch):
        add(StubModel(), index.path, [str(table)])
    assert "items-00001.parquet" in contents(index.path)
    crystals(table, 10)
    added = add(StubModel(), index.path, [str(table)])
    assert added.check() == []
    now = contents(index.path)
    assert all(now[name] == before[name] for name in before if name != "index.json")


def test_unfinished_work_on_other_crystals_is_not_removed(cifs, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(BuildError):
        embed(StubModel(), [str(cifs)], out, ONE)
    other = crystals(tmp_path / "other.jsonl", 1)
    with pytest.raises(IndexMismatchError, match=r"unfinished work \(1 part\) on .*/cifs, whose"):
        embed(StubModel(), [str(other)], out, ONE)
    resumed = StubModel()
    embed(resumed, [str(cifs)], out, EmbedOptions(shard_rows=1, on_bad="skip"))
    assert resumed.embedded == 0


def test_work_that_machines_share_is_not_removed(cifs, tmp_path):
    shares = [EmbedOptions(shard_rows=1, machine=(k, 2)) for k in (1, 2)]
    assert embed(StubModel(), [str(cifs)], tmp_path / "out", shares[0]) is None
    (cifs / "b.cif").write_text(NACL)
    for options in (shares[1], ONE):
        with pytest.raises(IndexMismatchError, match=r"delete .*/out/parts and run this command"):
            embed(StubModel(), [str(cifs)], tmp_path / "out", options)


def test_a_flag_that_makes_the_crystals_good_is_taken_as_long_as_nothing_is_lost(cifs, tmp_path):
    text = NACL.replace("data_NaCl", "data_NaCl\n_chemical_formula_sum 'K Cl'")
    for name in "ab":
        (cifs / f"{name}.cif").write_text(text)
    with pytest.raises(BuildError, match="formula"):
        embed(StubModel(), [str(cifs)], tmp_path / "out")
    options = EmbedOptions()
    object.__setattr__(options.sources, "on_formula_mismatch", "take")
    assert embed(StubModel(), [str(cifs)], tmp_path / "out", options).count == 2


def test_an_addition_that_was_refused_is_corrected_in_the_same_way(index, tmp_path, capsys):
    table = crystals(tmp_path / "more.jsonl", 3, 9)
    with pytest.raises(BuildError, match="its id is also"):
        add(StubModel(), index.path, [str(table)])
    other = crystals(tmp_path / "other.jsonl", 11)
    with pytest.raises(IndexMismatchError, match=r"unfinished work .* on .*/more.jsonl"):
        add(StubModel(), index.path, [str(other)])
    crystals(table, 8, 9)
    assert add(StubModel(), index.path, [str(table)]).count == 7
    assert "will be made again" in capsys.readouterr().err
    assert add(StubModel(), index.path, [str(other)]).count == 8


def test_the_work_of_a_different_addition_survives_that_of_known_crystals(
    index, table, tmp_path, capsys
):
    more = crystals(tmp_path / "more.jsonl", 7, 8, 9)
    with interrupted_at("000001.part"):
        add(StubModel(), index.path, [str(more)])
    assert add(StubModel(), index.path, [str(table)]).count == 5
    assert "holds these crystals already" in capsys.readouterr().err
    resumed = StubModel()
    assert add(resumed, index.path, [str(more)]).count == 8
    assert resumed.embedded == 1


@pytest.mark.parametrize(
    "name",
    ["items.parquet", "items.csv", "vectors-of-mine.npy", "refused.jsonl", "texts-00000.npy"],
)
def test_files_of_the_user_are_never_replaced(table, tmp_path, name):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(IndexFolderError, match=f"holds other files \\({name}\\)"):
        embed(StubModel(), [str(table)], tmp_path / "mine")
    assert (tmp_path / "mine" / name).read_text() == "mine"


def test_a_folder_parts_of_the_user_is_never_removed(table, tmp_path):
    (tmp_path / "mine" / "parts").mkdir(parents=True)
    (tmp_path / "mine" / "parts" / "x.cif").write_text(NACL)
    with pytest.raises(IndexFolderError, match=r"holds other files \(parts\)"):
        embed(StubModel(), [str(table)], tmp_path / "mine")
    (tmp_path / "mine" / "parts" / "x.cif").unlink()
    assert embed(StubModel(), [str(table)], tmp_path / "mine").count == 5


def test_crystals_inside_of_the_index_are_refused(index):
    for source in (index.path / "items.parquet", index.path / "parts"):
        source.mkdir() if source.name == "parts" else None
        with pytest.raises(IndexFolderError, match=f"{source.name} is inside --out="):
            embed(StubModel(), [str(source)], index.path)
