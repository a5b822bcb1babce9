"""Table readers: the rows of valid files and the errors for invalid ones."""

import codecs
import json
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.user_tables import records_of, row, write
from hypothesis import example, given, settings
from hypothesis import strategies as st

from clac_jax.datasets import json_reader
from clac_jax.datasets.columns import UnreadableRow
from clac_jax.datasets.readers import read_table
from clac_jax.datasets.record import DataError

FAULTS = Path(__file__).parents[1] / "data" / "faults"


def lines(path, rows):
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_an_unused_column_of_nanoseconds_does_no_harm(tmp_path):
    assert len(records_of(FAULTS / "r8_timestamp_ns.parquet", tmp_path)) == 20


def test_a_csv_with_a_header_in_latin_1(tmp_path):
    records = records_of(FAULTS / "r9_latin1_header.csv", tmp_path)
    assert len(records) == 20
    assert all(record.properties == {} for record in records.values())


def test_only_columns_in_use_are_read(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table(
        {
            "id": ["a"],
            "gpt_text": ["x"],
            "atoms": [row(0)["atoms"]],
            "number": pa.array([2], pa.int8()),
            "when": [datetime(2020, 1, 1)],
            "note": ["free text"],
            "list": [[1, 2]],
        }
    )
    pq.write_table(table, path)
    assert [sorted(r) for r in read_table(path)] == [["atoms", "gpt_text", "id", "number"]]


def test_invalid_utf8_in_a_parquet_is_a_bad_row(tmp_path):
    bad = pa.array([b"ok", b"\xff\xfe", b"ok"]).view(pa.string())
    table = pa.table({"id": ["a", "b", "c"], "gpt_text": bad, "atoms": [row(0)["atoms"]] * 3})
    pq.write_table(table, tmp_path / "t.parquet")
    rows = list(read_table(tmp_path / "t.parquet"))
    assert rows[1] == UnreadableRow("its gpt_text is not UTF-8", "b")
    assert [r["id"] for r in (rows[0], rows[2])] == ["a", "c"]


def test_a_known_column_of_the_wrong_type_makes_bad_rows(tmp_path):
    table = pa.table(
        {
            # Beyond year 9999, which Python cannot represent, with or without pandas.
            "id": pa.array([1 << 50] * 2, pa.int64()).view(pa.timestamp("ms")),
            "gpt_text": ["x", "y"],
            "atoms": [row(0)["atoms"]] * 2,
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    assert all(isinstance(r, UnreadableRow) for r in read_table(tmp_path / "t.parquet"))


def test_a_column_of_only_nan_is_not_a_text(tmp_path):
    rows = [row(k, text=float("nan"), cif=float("nan"), formula=float("nan")) for k in range(12)]
    records = records_of(write(tmp_path / "t.parquet", rows), tmp_path / "data")
    assert len(records) == 12
    assert records["m-3"].properties == {"band gap": 3.0}


def csv_of(rows):
    names = list(rows[0])
    cells = [names, *([str(r[name]) for name in names] for r in rows)]
    return "\n".join(",".join('"' + c.replace('"', '""') + '"' for c in line) for line in cells)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json", ".JSON"])
def test_a_byte_order_mark_is_ignored(tmp_path, suffix):
    rows = [row(k) for k in range(12)]
    text = {".csv": csv_of(rows), ".jsonl": "\n".join(map(json.dumps, rows))}
    path = tmp_path / f"t{suffix}"
    path.write_bytes(codecs.BOM_UTF8 + text.get(suffix, json.dumps(rows)).encode())
    assert records_of(path, tmp_path / "data")["m-0"].properties == {"band gap": 0.0}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".json"])
def test_utf16_is_named(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    path.write_text(json.dumps([row(0)]), encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        list(read_table(path))


def test_columns_with_the_same_name_are_refused(tmp_path):
    arrays = [pa.array(["a"]), pa.array([row(0)["atoms"]]), pa.array(["x"]), pa.array(["y"])]
    table = pa.Table.from_arrays(arrays, names=["id", "atoms", "gpt_text", "gpt_text"])
    pq.write_table(table, tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("id,cif,gpt_text,energy,energy\na,b,c,1,2\n")
    for name, column in (("t.parquet", "gpt_text"), ("t.csv", "energy")):
        with pytest.raises(DataError, match=f"2 columns named '{column}'"):
            list(read_table(tmp_path / name))


def test_unused_columns_may_have_the_same_name(tmp_path):
    (tmp_path / "t.csv").write_text("id,cif,gpt_text,,\na,b,c,,\n")
    assert list(read_table(tmp_path / "t.csv")) == [{"id": "a", "cif": "b", "gpt_text": "c"}]


@pytest.mark.parametrize("suffix", [".jsonl", ".json"])
def test_a_repeated_key_in_an_object_is_a_bad_row(tmp_path, suffix):
    rows = ['{"id": "a", "cif": "x", "gpt_text": "y"}', '{"id": "b", "cif": {"z": 1, "z": 2}}']
    path = tmp_path / f"t{suffix}"
    path.write_text("\n".join(rows) if suffix == ".jsonl" else f"[{','.join(rows)}]")
    first, second = read_table(path)
    assert first["id"] == "a"
    assert second == UnreadableRow("the key 'z' occurs twice in an object")


def test_rows_of_a_csv_with_too_many_or_too_few_cells_are_bad_rows(tmp_path):
    (tmp_path / "t.csv").write_text("id,cif,gpt_text\na,b\nc,d,e\nf,g,h,i\n")
    rows = list(read_table(tmp_path / "t.csv"))
    assert rows[0] == UnreadableRow("it has 2 cells for 3 columns")
    assert rows[1]["id"] == "c"
    assert rows[2] == UnreadableRow("it has 4 cells for 3 columns")


def test_a_csv_that_ends_inside_a_quoted_cell_is_incomplete(tmp_path):
    (tmp_path / "t.csv").write_text('id,cif,gpt_text\na,b,"c\nd,e,f\n')
    with pytest.raises(DataError, match=r"line 3: .*Check the quotes"):
        list(read_table(tmp_path / "t.csv"))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_a_csv_with_a_different_separator_is_refused(tmp_path, separator):
    path = tmp_path / "a.csv"
    path.write_text("\ufeff" + separator.join(("id", "cif", "gpt_text")) + "\r\n")
    with pytest.raises(DataError, match=r"as the column separator.*Save it with commas"):
        list(read_table(path))


def test_numeric_columns_of_a_csv(tmp_path):
    text = "id,cif,gpt_text,a,b,c,band gap\n1,x,y,1.5,1,na,na\n2,x,y,na,z,,2\n"
    (tmp_path / "t.csv").write_text(text)
    first, second = read_table(tmp_path / "t.csv")
    assert first == {"id": "1", "cif": "x", "gpt_text": "y", "a": 1.5, "band gap": "na"}
    assert second.pop("a") is None
    assert second["band gap"] == "2"


def test_csv_cells_that_are_not_utf8_are_bad_rows_only_if_used(tmp_path):
    text = csv_of([row(k, note="Å") for k in range(12)]).encode("latin-1")
    (tmp_path / "t.csv").write_bytes(text)
    assert len(records_of(tmp_path / "t.csv", tmp_path / "data")) == 12
    (tmp_path / "t.csv").write_bytes(text.replace(b"number 7", b"n\xfcmber 7"))
    with pytest.raises(DataError, match=r"row 7 \(m-7\): its gpt_text has a byte that is not UTF"):
        records_of(tmp_path / "t.csv", tmp_path / "data")


def test_a_line_that_is_not_json_is_a_bad_row(tmp_path):
    path = lines(tmp_path / "t.jsonl", [row(k) for k in range(12)])
    with open(path, "ab") as file:
        file.write(b'{"id": "cut o\n' + b"[" * 100_000 + b"\n" + b'{"id": ' + b"1" * 5000 + b"}\n")
    assert len(records_of(path, tmp_path / "data", on_bad_row="skip")) == 12
    with pytest.raises(DataError, match=r"row 12 .*it is not JSON"):
        records_of(path, tmp_path / "data")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=25, deadline=None)
@example(rows=[None, 0.0, 10], size=1, indent=None)
@example(rows=[None, 0.0, 10], size=3, indent=None)
@given(
    rows=st.lists(values, max_size=5), size=st.integers(1, 40), indent=st.sampled_from([None, 1])
)
def test_a_list_is_read_as_json_reads_it(tmp_path_factory, rows, size, indent):
    path = tmp_path_factory.mktemp("lists") / "t.json"
    rows = [{"cif": 1, "text": 2}, *rows]
    path.write_text(json.dumps(rows, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_reader, "READ_BYTES", size)
        assert list(read_table(path)) == rows


@pytest.mark.parametrize(
    "text", ["", "[", "[1", "[1 2]", "[1,]", '[{"a": 1}', "[1] 2", "nul", "{}", "[" * 100_000]
)
def test_a_file_that_is_not_a_list(tmp_path, text):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(DataError, match=r"t\.json (is not JSON|does not contain a list)"):
        list(read_table(tmp_path / "t.json"))


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_damaged_parquet_gives_rows_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("damaged") / "t.parquet"
    write(path, [row(k) for k in range(3)])
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert len(list(read_table(path))) <= 3
    except DataError as error:
        assert "t.parquet" in str(error)
