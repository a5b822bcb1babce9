"""The user's own classes, read from a CSV."""

import numpy as np
import pytest

from clac_jax.evaluation.own_classes import ClassesError, read_classes


def written(tmp_path, content, encoding="utf-8"):
    path = tmp_path / "classes.csv"
    path.write_bytes(content.encode(encoding))
    return path


def test_each_label_is_a_class(tmp_path):
    own = read_classes(written(tmp_path, "id,label\nm1,superconducting\nm2,normal\nm3,normal\n"))
    first, second = own.classes(["m3", "m1", "unknown"])
    assert (first.group, first.name, second.name) == ("own", "superconducting", "normal")
    np.testing.assert_array_equal(first.labels, [0, 1, np.nan])
    np.testing.assert_array_equal(second.labels, [1, 0, np.nan])
    assert "This material is superconducting." in first.positive
    assert first.negative == second.positive


def test_sentences_may_be_given_in_any_row_of_a_label(tmp_path):
    table = "id,label,sentence\nm1,hot,It is hot.\nm2,hot,\nm3,hot,It burns.\nm4,cold,\n"
    hot, cold = read_classes(written(tmp_path, table)).classes(["m1"])
    assert hot.positive == ("It is hot.", "It burns.")
    assert cold.positive == ("This material is cold.", "It is cold.", "Cold.")


def test_spreadsheets_leave_marks_that_do_no_harm(tmp_path):
    path = written(tmp_path, 'id, label\r\nm1, "a, b"\r\nm2, c\r\n,\r\n', "utf-8-sig")
    assert read_classes(path).label_of == {"m1": "a, b", "m2": "c"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,class\nm1,a\n", "has no column 'label': its first row is 'id,class'"),
        ("", "has no column 'id'"),
        ("id,label\nm1,a\nm2,\n", "Row 3 of .* has no label"),
        ("id,label\n,a\n", "Row 2 of .* has no id"),
        ("id,label\nm1,a\nm2,b\nm1,b\n", "Row 4 of .* gives m1 the label 'b', and row 2 .* 'a'"),
        ("id,label\nm1,a\nm2,a\n", "has 1 label. Give at least two"),
        ("id,label\n", "has 0 labels. Give at least two"),
    ],
)
def test_errors_name_the_file_and_the_row(tmp_path, content, message):
    with pytest.raises(ClassesError, match=message) as caught:
        read_classes(written(tmp_path, content))
    assert "classes.csv" in str(caught.value)


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    with pytest.raises(ClassesError, match=r"missing\.csv cannot be read as CSV"):
        read_classes(tmp_path / "missing.csv")
    with pytest.raises(ClassesError, match=r"classes\.csv cannot be read as CSV"):
        read_classes(written(tmp_path, "id,label\nm1,\xff\n", "latin-1"))


def test_ids_of_other_data_are_refused(tmp_path):
    own = read_classes(written(tmp_path, "id,label\nm1,a\nm2,b\n"))
    with pytest.raises(ClassesError, match="first id is 'm1', that of the split 'x9'"):
        own.classes(["x9", "x8"])
