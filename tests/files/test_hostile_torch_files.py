"""Hostile torch files are refused with one line, in bounded time and memory."""

import io
import os
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from helpers.torch_writer import save
from hypothesis import given
from hypothesis import strategies as st

from clac_jax.files import plain_pickle
from clac_jax.files.torch import TorchFileError, read_torch_file

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
ORDERED = b"ccollections\nOrderedDict\n"


def storage(key=b"0", kind=b"FloatStorage", count=4):
    return (
        b"(X\x07\x00\x00\x00storagectorch\n"
        + kind
        + b"\n"
        + text(key)
        + text(b"cpu")
        + (integer(count) + b"tQ")
    )


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def integer(value):
    return pickle.dumps(value, 2)[2:-1]


def tensor(size, stride, offset=0, **of_storage):
    """The instructions of one tensor."""
    size, stride = (b"(" + b"".join(map(integer, values)) + b"t" for values in (size, stride))
    return (
        TENSOR + b"(" + storage(**of_storage) + integer(offset) + size + stride
        + b"\x89" + ORDERED + b")RtR"
    )  # fmt: skip


def write(path, program, members=None, **options):
    """A torch file with these instructions and, by default, a storage of 4 elements."""
    members = {"data/0": np.arange(4, dtype=np.float32).tobytes()} if members is None else members
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + program + b".")
        for name, data in members.items():
            archive.writestr(f"a/{name}", data)
    return path


def refusal(path):
    """The one-line message with which a file is refused."""
    with pytest.raises(TorchFileError) as caught:
        read_torch_file(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def doubled(times, seed=b"]K\x01a"):
    """A list of two references to a list of two references, and so on."""
    program = seed
    for k in range(times):
        program += b"q" + bytes([k]) + b"0](h" + bytes([k]) + b"h" + bytes([k]) + b"e"
    return program


DEEP_TUPLE = b")" + b"\x85" * 100_000

HOSTILE = {
    "an object without state": b"comegaconf.dictconfig\nDictConfig\n)\x81",
    "the state of a function": TENSOR + b"}X\x01\x00\x00\x00aK\x01sb",
    "a list in itself": b"]q\x00h\x00a",
    "a list in itself twice": b"]q\x00(h\x00h\x00e",
    "a list of 2^40 as a tree": doubled(40),
    "30,000 nested lists": b"]" * 30_000 + b"a" * 29_999,
    "a tuple of 100,000 as a key": b"}" + DEEP_TUPLE + b"Ns",
    "a tuple of 100,000 in a set": b"c__builtin__\nset\n]" + DEEP_TUPLE + b"a\x85R",
    "a tuple of 2^40 as a key": b"}N\x85" + b"2\x86" * 40 + b"Ns",
    "an unhashable key": b"}]Ns",
    "text of 2^63 bytes": b"\x8d" + struct.pack("<Q", 1 << 63) + b"abc",
    "bytes of 2^62": b"\x8e" + struct.pack("<Q", 1 << 62) + b"abc",
    "an integer of 2^31 bytes": b"\x8b" + struct.pack("<i", (1 << 31) - 1) + b"abc",
    "an integer of 10,000 bytes": b"\x8b" + struct.pack("<i", 10_000) + b"\x7f" * 10_000,
    "an integer of 5,000 digits": b"I" + b"9" * 5000 + b"\n",
    "text without an end": b"V" + b"a" * 1000,
    "a missing memo": b"h\x05",
    "a memo at 2^32": b"Nr\xff\xff\xff\xff",
    "stack empty": b"a",
    "an extension": b"\x82\x01",
    "a call of text": text(b"abc") + b")R",
    "a call of a tensor": tensor((4,), (1,)) + b")R",
    "20,000 copies of a list": (
        b"](" + b"N" * 1000 + b"eq\x00" + b"0c__builtin__\nlist\nh\x00\x85R" * 20_000
    ),
    "a tensor of nothing": TENSOR + b")R",
    "a tensor without storage": TENSOR + b"(NK\x00))\x89NtR",
    "a size in text": tensor((4,), (1,)).replace(integer(4) + b"t", text(b"4") + b"t"),
    "a size of 2^63": tensor((1 << 63,), (1,)),
    "8 GB of 4 numbers": tensor((1 << 31,), (0,)),
    "2^62 of 4 numbers": tensor((1 << 31, 1 << 31), (0, 0)),
    "an empty size of 2^63": tensor((0, 1 << 63), (1, 1)),
    "100 dimensions": tensor((1,) * 100, (1,) * 100),
    "an offset of 2^63": tensor((4,), (1,), offset=1 << 63),
    "a negative offset": tensor((4,), (1,), offset=-1),
    "a negative stride": tensor((4,), (-1,)),
    "other numbers of sizes and strides": tensor((4,), (1, 1)),
    "a missing storage": tensor((4,), (1,), key=b"1"),
    "a storage above the folder": tensor((4,), (1,), key=b"../../0"),
    "a storage of 2^63": tensor((4,), (1,), count=1 << 63),
    "a storage of -1": tensor((4,), (1,), count=-1),
    "a storage of two types": (
        b"]" + tensor((4,), (1,)) + b"a" + tensor((4,), (1,), kind=b"IntStorage") + b"a"
    ),
    "a storage without a type": tensor((4,), (1,)).replace(b"ctorch\nFloatStorage\n", b"N"),
    "a persistent id of text": text(b"storage") + b"Q",
}  # fmt: skip

HARMLESS = ("an object without state", "the state of a function", "a memo at 2^32")


# Long cases are tested once, as the surrounding file does not matter.
CASES = [
    (name, old)
    for name, program in HOSTILE.items()
    for old in (False, True)
    if not old or len(program) < 20_000
]


@pytest.mark.parametrize(("name", "old"), CASES)
def test_hostile_instructions_are_refused_or_read_within_a_bounded_memory(tmp_path, name, old):
    path = write(tmp_path / "file.pt", HOSTILE[name])
    if old:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        numbers = struct.pack("<q", 4) + np.arange(4, dtype=np.float32).tobytes()
        program = HOSTILE[name].replace(b"tQ", b"NtQ")
        keys = [] if name in HARMLESS else ["0"]
        tail = b"\x80\x02" + program + b"." + pickle.dumps(keys, 2) + numbers
        path.write_bytes(b"".join(pickle.dumps(value, 2) for value in head) + tail)
    tracemalloc.start()
    try:
        if name in HARMLESS:
            read_torch_file(path)
        else:
            assert "damaged" in refusal(path)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()


def test_storage_keys_that_are_slow_to_compare_are_refused(tmp_path):
    path = tmp_path / "file.pt"
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}]
    names = b"\x80\x02N\x85" + b"2\x86" * 60 + b"\x85."
    path.write_bytes(b"".join(pickle.dumps(value, 2) for value in head) + names)
    assert "have no keys" in refusal(path)


def test_a_file_does_not_affect_the_next_one(tmp_path):
    set_slots = b"N}" + text(b"array") + b"K\x01s\x86b0"
    names = (TENSOR, b"comegaconf.nodes\nAnyNode\n", ORDERED, b"ctorch\nFloatStorage\n")
    program = b"".join(name + set_slots for name in names) + b"}"
    read_torch_file(write(tmp_path / "first.pt", program))
    save({"a": np.arange(3.0)}, tmp_path / "second.pt")
    np.testing.assert_array_equal(read_torch_file(tmp_path / "second.pt")["a"], np.arange(3.0))


def test_an_expanded_tensor_takes_no_memory(tmp_path):
    tracemalloc.start()
    found = read_torch_file(write(tmp_path / "file.pt", tensor((1000, 1000, 4), (0, 0, 1))))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert found.shape == (1000, 1000, 4)
    np.testing.assert_array_equal(found[999, 1], [0, 1, 2, 3])
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1  # would change every one


def test_a_dimension_of_one_may_have_any_stride(tmp_path):
    found = read_torch_file(write(tmp_path / "file.pt", tensor((1, 4), (1 << 62, 1))))
    np.testing.assert_array_equal(found, [[0, 1, 2, 3]])


def test_any_byte_but_zero_is_true(tmp_path):
    program = tensor((4,), (1,), kind=b"BoolStorage")
    found = read_torch_file(write(tmp_path / "file.pt", program, {"data/0": b"\x00\x01\x02\xff"}))
    np.testing.assert_array_equal(found, [False, True, True, True])
    assert found.view(np.uint8).max() == 1


@pytest.mark.parametrize(("order", "expected"), [("little", 1), ("big", 1 << 24)])
def test_the_byte_order_of_the_file_is_respected(tmp_path, order, expected):
    members = {"data/0": np.ones(4, "<i4").tobytes(), "byteorder": order}
    path = write(tmp_path / "file.pt", tensor((4,), (1,), kind=b"IntStorage"), members)
    np.testing.assert_array_equal(read_torch_file(path), [expected] * 4)
    write(path, tensor((4,), (1,), kind=b"IntStorage"), members | {"byteorder": "middle"})
    assert "byte order is 'middle'" in refusal(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "file.pt"
    members = {"data/0": bytes(50_000_000)}
    program = tensor((12_500_000,), (1,), count=12_500_000)
    write(path, program, members, compression=zipfile.ZIP_DEFLATED)
    tracemalloc.start()
    assert "compressed" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_one_member_under_many_names_is_not_read_many_times(tmp_path):
    numbers = np.zeros(250_000, np.float32).tobytes()
    program = b"]" + b"".join(
        tensor((250_000,), (1,), key=b"%d" % k, count=250_000) + b"a" for k in range(200)
    )
    path = write(tmp_path / "file.pt", program, {"data/000": numbers})
    # 200 directory entries that all point to the same member.
    data = path.read_bytes()
    end = data.rindex(b"PK\x05\x06")
    start = struct.unpack_from("<I", data, end + 16)[0]
    entry = data[data.rindex(b"PK\x01\x02") : end]
    entries = b"".join(entry.replace(b"000", b"%03d" % k) for k in range(200))
    path.write_bytes(
        data[:start]
        + entries
        + b"PK\x05\x06"
        + struct.pack("<HHHHIIH", 0, 0, 200, 200, len(entries), start, 0)
    )
    tracemalloc.start()
    assert "damaged" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_member_that_declares_two_gigabytes_is_not_read(tmp_path):
    path = write(tmp_path / "file.pt", tensor((4,), (1,)))
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02")  # central directory entry of the last member
    data[at + 20 : at + 24] = (1 << 31).to_bytes(4, "little")
    path.write_bytes(data)
    tracemalloc.start()
    assert "larger than the file" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_members_of_one_name_and_encrypted_ones_are_refused(tmp_path):
    path = write(tmp_path / "file.pt", tensor((4,), (1,)))
    plain = path.read_bytes()
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a/data/0", np.ones(4, np.float32).tobytes())
    assert "two of its members have the same name" in refusal(path)
    encrypted = bytearray(plain)
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = plain.index(signature)
        encrypted[at + flags] |= 1
    path.write_bytes(encrypted)
    assert "encrypted" in refusal(path)


def test_a_long_name_with_line_breaks_is_reported_on_one_line(tmp_path):
    name = b"os\nsystem" + b"x" * 100_000
    path = write(tmp_path / "file.pt", text(name) + text(b"evil") + b"\x93")
    assert "which is not plain data" in refusal(path)


def test_too_many_instructions_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "MAX_INSTRUCTIONS", 1000)
    assert "instructions" in refusal(write(tmp_path / "file.pt", b"N0" * 1000 + b"N"))


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in ("pipe", "link", "loop", "."):
        assert str(tmp_path) in refusal(tmp_path / name)


@given(data=st.data())
def test_plain_values_are_read_as_by_pickle(data):
    leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    keys = st.text() | st.integers() | st.tuples(st.integers(), st.text())
    values = st.recursive(
        leaves | st.complex_numbers(allow_nan=False) | st.sets(keys) | st.frozensets(keys),
        lambda inner: st.lists(inner) | st.dictionaries(keys, inner) | st.tuples(inner, inner),
        max_leaves=20,
    )
    value = data.draw(values)
    written = pickle.dumps(value, data.draw(st.integers(0, 4)))
    found = plain_pickle.read_pickle(io.BytesIO(written), {}, lambda _: False, lambda _: None)
    assert found == value and type(found) is type(value)
