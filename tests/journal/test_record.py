"""The binary form of a step's record: exact, checked, and readable by later versions."""

import json
import zlib

import numpy as np
import pytest

from clac_jax.digests.digest import Digest
from clac_jax.journal import record as module
from clac_jax.journal.record import (
    DIGESTS,
    DTYPE,
    NOT_FINITE,
    DamagedJournalError,
    StepRecord,
    header,
    parse,
)


def a_record(step, **changes):
    values = {
        "epoch": 1,
        "start": 2,
        "loss": float(np.float32(0.1)),
        "grad_norm": float(np.float32(3.3)),
        "learning_rate": float(np.float32(1e-3)),
        "digests": {name: Digest(step, number) for number, name in enumerate(DIGESTS)},
    }
    return StepRecord(step=step, **(values | changes))


def journal_of(*records):
    return header() + b"".join(each.to_bytes() for each in records)


def test_a_record_is_read_as_it_was_written():
    some = {"gradients": Digest(1, 2), "ids": Digest(3, 4)}
    records = [a_record(1), a_record(2, digests=some), a_record(3, flags=NOT_FINITE, digests={})]
    rows = parse(journal_of(*records), "x")
    assert [StepRecord.from_row(row) for row in rows] == records
    assert rows["step"].tolist() == [1, 2, 3]
    assert len(records[0].to_bytes()) == DTYPE.itemsize < 150


def test_a_loss_that_is_not_finite_is_kept():
    (row,) = parse(journal_of(a_record(1, loss=float("nan"), grad_norm=float("inf"))), "x")
    assert np.isnan(row["loss"]) and np.isinf(row["grad_norm"])


@pytest.mark.parametrize("cut", range(1, DTYPE.itemsize, 7))
def test_a_record_cut_off_by_a_kill_is_dropped(cut):
    content = journal_of(a_record(1), a_record(2))
    assert parse(content[:-cut], "x")["step"].tolist() == [1]


def test_records_that_never_reached_the_disk_are_dropped():
    content = journal_of(a_record(1)) + bytes(3 * DTYPE.itemsize + 5)
    assert parse(content, "x")["step"].tolist() == [1]


def test_a_header_cut_off_by_a_kill_is_an_empty_journal():
    for size in (1, 10, len(header()) - 1):
        assert len(parse(header()[:size], "x")) == 0


@pytest.mark.parametrize("bit", [0, 77, 8 * DTYPE.itemsize - 1])
def test_a_flipped_bit_in_the_middle_is_named(bit):
    content = bytearray(journal_of(a_record(1), a_record(2), a_record(3)))
    content[len(header()) + DTYPE.itemsize + bit // 8] ^= 1 << bit % 8
    with pytest.raises(DamagedJournalError, match=r"here/steps\.journal, record 2 is damaged"):
        parse(bytes(content), "here/steps.journal")


NO_JOURNALS = [
    b"oops\n",
    b"x" * 100_000,
    b"[1]\n",
    b'{"journal": 1}\n',
    b"\xff\n",
    b'{"journal": 1, "values": 3, "digests": 3}\n',
]


@pytest.mark.parametrize("content", NO_JOURNALS, ids=range(6))
def test_other_files_are_refused(content):
    with pytest.raises(DamagedJournalError, match="is not a journal"):
        parse(content, "x")


def test_another_format_is_named():
    facts = json.loads(header()) | {"journal": 7}
    with pytest.raises(DamagedJournalError, match="format 7"):
        parse(json.dumps(facts).encode() + b"\n", "x")


def test_a_journal_with_other_fields_is_converted(monkeypatch):
    """As one written by an earlier version, without some digests, or by a later one, with more."""
    values = (*module._VALUES, ("temperature", "<f4"))
    digests = ("total", "ids", "moons")
    dtype = module._dtype(values, digests)
    row = np.zeros(1, dtype)
    row["step"], row["loss"], row["present"] = 5, 0.5, 0b110
    row["digests"]["ids"], row["digests"]["moons"] = (8, 9), (1, 2)
    row["crc"] = zlib.crc32(row.tobytes()[:-4])
    facts = {"journal": 1, "values": values, "digests": digests}
    content = json.dumps(facts).encode() + b"\n" + row.tobytes()
    rows = parse(content, "x")
    assert rows.dtype == DTYPE
    read = StepRecord.from_row(rows[0])
    assert (read.step, read.loss, dict(read.digests)) == (5, 0.5, {"ids": Digest(8, 9)})
    again = parse(header() + rows.tobytes(), "x")  # with the right checksum
    assert again.tobytes() == rows.tobytes()
