"""Which rows of a file differ from those that a chain covers."""

import shutil

import pytest
from helpers.forged import change_line, reorder_lines
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.journal.record import DTYPE
from clac_jax.proof.evidence import gather
from clac_jax.proof.proof import compare_files, prove
from clac_jax.proof.rows import differing
from clac_jax.proof.segments import Limits

MARKS = st.lists(st.integers(0, 99), min_size=1, max_size=30, unique=True)


@given(MARKS, st.data())
def test_a_changed_a_missing_and_an_added_row_are_found(marks, data):
    marks = [f"{mark:04x}" for mark in marks]
    place = data.draw(st.integers(0, len(marks) - 1))
    later = data.draw(st.lists(st.just("ffff"), max_size=3))
    assert differing(marks, [*marks, *later]) == []
    changed = [*marks[:place], "eeee", *marks[place + 1 :]]
    assert differing(marks, changed) == [("changed", place)]
    assert differing(marks, [*marks[:place], *marks[place + 1 :]]) == [("missing", place)]
    if place:
        added = [*marks[:place], "eeee", *marks[place:], *later]
        assert ("added", place) in differing(marks, added)


@given(MARKS, st.integers(1, 3))
def test_rows_after_the_end_of_a_run_are_added(marks, count):
    marks = [f"{mark:04x}" for mark in marks]
    longer = [*marks, *[marks[-1]] * count]
    assert differing(marks, longer) == []
    added = [("added", len(marks) + k) for k in range(count)]
    assert differing(marks, longer, has_ended=True) == added


def repeat_last(path, size=0, **values):
    content = path.read_bytes()
    last = content[-size:] if size else content.splitlines(keepends=True)[-1]
    path.write_bytes(content + last)
    if values:
        change_line(path, -1, **values)


LATER = {
    "a row of the test": (
        lambda run: repeat_last(run / "metrics.jsonl", text_to_crystal_top1=0.99),
        "metrics.jsonl, line 12 (test row of step 8): was not written by the run",
    ),
    "a row of a step": (
        lambda run: repeat_last(run / "metrics.jsonl", split="train", step=9),
        "metrics.jsonl, line 12 (train row of step 9): was not written by the run",
    ),
    "a start": (
        lambda run: repeat_last(run / "starts.jsonl"),
        "starts.jsonl, line 2 (start number 1 at step 0): was not written by the run",
    ),
    "a record of the journal": (
        lambda run: repeat_last(run / "steps.journal", DTYPE.itemsize),
        "steps.journal, record 9 (step 8): was not written by the run",
    ),
}


@pytest.mark.parametrize("case", LATER)
def test_rows_added_after_the_end_are_named_and_not_counted(case, copy):
    add, words = LATER[case]
    add(copy)
    proof = prove(str(copy), Limits(segments=0), say=lambda line: None)
    assert [finding.words[: len(words)] for finding in proof.findings] == [words]
    assert proof.lines()[1].startswith("compared  11 rows, 8 steps, 1 start, ")


def test_rows_that_no_record_covers_yet_are_counted_apart(copy):
    reorder_lines(copy / "chain.jsonl", lambda k: k[:-2])  # as if killed before step 8 was saved
    shutil.rmtree(copy / "checkpoints" / "8")
    reorder_lines(copy / "metrics.jsonl", lambda k: k[:8])
    proof = prove(str(copy), Limits(segments=0), say=lambda line: None)
    assert proof.is_proven
    rows, steps = (proof.uncovered[name] for name in ("rows", "steps"))
    assert (rows, steps) == (8 - proof.counts["rows"], 8 - proof.counts["steps"]) == (1, 2)
    assert "          1 row, 2 steps after the last record: not covered" in proof.lines()


UNREADABLE = {
    "an empty line": ("metrics.jsonl", lambda content: b"\n" + content),
    "a list": ("metrics.jsonl", lambda content: content + b"[1]\n"),
    "bytes that are not text": ("starts.jsonl", lambda content: content + b"\xff\xfe{}\n"),
    "a flipped bit": ("steps.journal", lambda c: c[:500] + bytes([c[500] ^ 1]) + c[501:]),
    "no file": ("metrics.jsonl", None),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_file_that_cannot_be_read_is_one_finding(case, copy):
    name, change = UNREADABLE[case]
    path = copy / name
    if change:
        path.write_bytes(change(path.read_bytes()))
    else:
        path.unlink()
    (finding,) = compare_files(gather(copy))
    assert finding.where == name


def test_a_changed_digest_of_a_row_is_found(copy):
    path = copy / "data.digests"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    (finding,) = compare_files(gather(copy))
    assert finding.words == (
        "data.digests: is not the file that the run has written in the test split"
    )
    path.write_bytes(content[:-3])
    (finding,) = compare_files(gather(copy))
    assert finding.words == "data.digests: is not the file that the run has written"


def test_lost_digests_of_the_rows_are_noted(copy):
    (copy / "data.digests").unlink()
    proof = prove(str(copy), Limits(segments=0), say=lambda line: None)
    assert proof.is_proven
    (note,) = proof.notes
    assert note.startswith("data.digests is missing: ")
