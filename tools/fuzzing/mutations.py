"""Random corruptions of bytes, JSON values, zip archives, pickles and files."""

from __future__ import annotations

import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

BIG = (1 << 31, (1 << 31) - 1, 1 << 32, (1 << 62), (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
NAMES = (
    "../../outside",
    "/etc/passwd",
    "..",
    "",
    "a\0b",
    "\ud83d",
    "x" * 5000,
    "a\nb",
    "²",
    "\ufeff",
)
NUMBERS = (
    0,
    -1,
    0.5,
    1e308,
    -1e308,
    1e154,
    5e-324,
    *BIG,
    -(1 << 63),
    10**400,
    float("nan"),
    float("inf"),
)
ODD_VALUES: tuple[Any, ...] = (
    *NUMBERS, *NAMES, None, True, False, [], {}, [[]], {"": {}}, [None] * 1000,
    "False", "nan", "9" * 5000,
)  # fmt: skip
DEEP = 50_000


def corrupt_bytes(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Bytes with one to three faults, such as those of disks, transfers and editors."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        data = rng.choice(_BYTE_FAULTS)(data, others, rng)
    return data


def _flip(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    corrupted = bytearray(data or b"\0")
    corrupted[rng.randrange(len(corrupted))] ^= 1 << rng.randrange(8)
    return bytes(corrupted)


def _cut(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _cut_front(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    return data[rng.randrange(min(len(data), 64) + 1) :]


def _zero(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start, length = rng.randrange(len(data) + 1), rng.choice((1, 8, 64, 512, 4096))
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def _repeat(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    start = rng.randrange(len(data) + 1)
    piece = data[start : start + rng.choice((1, 4, 64, 1024))]
    return data[:start] + piece * rng.choice((2, 3, 100)) + data[start + len(piece) :]


def _splice(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others) if others else data
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


def _insert(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    pieces = (
        b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\xbd", b"\n", b"\r\n", b"\xff" * 8, b'"',
        b"[" * DEEP, b"{" * DEEP, b'{"a":' * DEEP, b"9" * 5000, b"1e999", b"NaN", b"\\ud83d",
        b"../", b"PK\x05\x06", b",", b"(",
    )  # fmt: skip
    start = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
    return data[:start] + rng.choice(pieces) + data[start:]


def _big_number(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    size = rng.choice((2, 4, 8))
    number = rng.choice((0, *BIG)) & ((1 << 8 * size) - 1)
    start = rng.choice((0, max(0, len(data) - 22), rng.randrange(len(data) + 1)))
    written = number.to_bytes(size, rng.choice(("little", "big")))
    return data[:start] + written + data[start + size :]


def _digits(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    places = [k for k, byte in enumerate(data[:100_000]) if 48 <= byte < 58]
    if not places:
        return data
    start = rng.choice(places)
    end = start
    while end < len(data) and 48 <= data[end] < 58:
        end += 1
    number = rng.choice(
        (b"-1", b"1e308", b"1e999", b"nan", b"0", b"9" * 5000, *(b"%d" % n for n in BIG))
    )
    return data[:start] + number + data[end:]


def _garbage(data: bytes, _: Sequence[bytes], rng: random.Random) -> bytes:
    return rng.choice(
        (
            b"",
            rng.randbytes(64),
            rng.randbytes(5000),
            bytes(5000),
            b"\xff" * 100,
            b"[]",
            b"{}",
            b"null",
        )
    )


_BYTE_FAULTS: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    _flip, _flip, _flip, _cut, _cut, _cut_front, _zero, _zero, _repeat, _splice, _insert, _insert,
    _big_number, _big_number, _digits, _digits, _garbage,
)  # fmt: skip


def corrupt_json(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three parts replaced, removed, renamed or nested."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _corrupt_json_once(value, rng)
    return value


def _corrupt_json_once(value: Any, rng: random.Random) -> Any:
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        fault = rng.random()
        if fault < 0.1:
            return {k: v for k, v in value.items() if k != key}
        if fault < 0.2:
            return value | {rng.choice(NAMES): value[key]}
        return value | {key: _corrupt_json_once(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.7:
        place = rng.randrange(len(value))
        fault = rng.random()
        if fault < 0.1:
            return value[:place] + value[place + 1 :]
        if fault < 0.2:
            return value[:place] + [value[place]] * rng.choice((2, 100)) + value[place + 1 :]
        return [*value[:place], _corrupt_json_once(value[place], rng), *value[place + 1 :]]
    if rng.random() < 0.2:
        for _ in range(rng.choice((1, 5, 200))):
            value = [value] if rng.random() < 0.5 else {"a": value}
        return value
    if isinstance(value, str) and rng.random() < 0.5:
        raw = corrupt_bytes(value.encode("utf-8", "surrogatepass"), (), rng)
        return raw[:100_000].decode("utf-8", rng.choice(("replace", "surrogateescape")))
    return rng.choice(ODD_VALUES)


def json_text(value: Any, rng: random.Random) -> bytes:
    """The JSON text of a value, at times with a repeated key, byte order mark or deep nesting."""
    text = _dumps(value)
    fault = rng.random()
    if fault < 0.05 and text.startswith("{"):
        text = '{"' + rng.choice(("config", "format", "a", "model")) + '": 1, ' + text[1:]
    elif fault < 0.1:
        text = "\ufeff" + text
    elif fault < 0.13:
        text = text.replace(rng.choice('{[":,'), "[" * DEEP, 1)
    elif fault < 0.16:
        text = text.replace("1", "9" * 5000, 1)
    return text.encode("utf-8", "surrogatepass")


def _dumps(value: Any) -> str:
    try:
        return json.dumps(value)
    except ValueError:  # an integer with more digits than Python converts
        return json.dumps(str(type(value)))


def corrupt_zip(data: bytes, rng: random.Random) -> bytes:
    """A rewritten zip archive with changed members, compression or central directory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(members))
    name, content = members[place]
    fault = rng.randrange(7)
    compression = zipfile.ZIP_STORED
    if fault == 0:
        members.append((name, content[::-1]))  # a repeated name
    elif fault == 1:
        members[place] = (rng.choice(NAMES[:4]) or "x", content)
    elif fault == 2:
        del members[place]
    elif fault == 3:
        compression = rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    elif fault == 4:  # a bomb: 64 MB in 64 kB
        members[place] = (name, bytes(1 << 26))
        compression = zipfile.ZIP_DEFLATED
    elif fault == 5:
        members[place] = (name, corrupt_bytes(content, [c for _, c in members], rng))
    else:
        members += [(f"{name}{k}", b"x") for k in range(300)]
    written = write_zip(members, compression)
    if rng.random() < 0.2:
        written = _corrupt_directory(written, rng)
    return written


def write_zip(members: Sequence[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip archive of the members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name.encode("utf-8", "replace").decode()[:60_000])
            info.compress_type = compression
            archive.writestr(info, content)
    return buffer.getvalue()


def _corrupt_directory(data: bytes, rng: random.Random) -> bytes:
    """A wrong size, offset or flag (encrypted) in the central directory."""
    at = data.rfind(b"PK\x01\x02")
    if at < 0:
        return data
    field, size = rng.choice(((8, 2), (10, 2), (20, 4), (24, 4), (42, 4)))
    value = rng.choice((0, 1, 9, 0x7FFFFFFF, 0xFFFFFFFF, rng.randrange(1 << 16)))
    corrupted = bytearray(data)
    corrupted[at + field : at + field + size] = (value & ((1 << 8 * size) - 1)).to_bytes(
        size, "little"
    )
    return bytes(corrupted)


_FRAGMENTS = (
    b"cposix\nsystem\n(X\x0b\x00\x00\x00touch FUZZEDtR",
    b"cbuiltins\neval\n(X\x03\x00\x00\x001+1tR",
    b"cbuiltins\ngetattr\n)R",
    b"comegaconf.dictconfig\nDictConfig\n)\x81",
    b"ccollections\nOrderedDict\n)RN}X\x01\x00\x00\x00aK\x01s\x86b",
    b"ctorch._utils\n_rebuild_tensor_v2\n)R",
    b"ctorch._utils\n_rebuild_tensor_v2\nN}X\x05\x00\x00\x00arrayK\x01s\x86b",
    b"]q\xf0h\xf0a",
    b"]q\xf1(h\xf1h\xf1e" * 3,
    b"N\x85" + b"2\x86" * 60,
    b")" + b"\x85" * DEEP,
    b"}" + b")" + b"\x85" * DEEP + b"Ns",
    b"]" * DEEP + b"a" * (DEEP - 1),
    b"\x8d" + struct.pack("<Q", 1 << 63),
    b"\x8e" + struct.pack("<Q", 1 << 40),
    b"B" + struct.pack("<I", 0xFFFFFFFF),
    b"\x8b" + struct.pack("<i", (1 << 31) - 1),
    b"\x8b" + struct.pack("<i", -1),
    b"I" + b"9" * 5000 + b"\n",
    b"Nr\xff\xff\xff\xff",
    b"h\xfe", b"(", b"t", b"0", b"2", b"R", b"\x81", b"b", b"u", b"e", b".", b"Q", b"\x82\x01",
    b"\x94",
)  # fmt: skip


def corrupt_pickle(data: bytes, rng: random.Random) -> bytes:
    """A pickle with inserted hostile instructions, or with changed bytes."""
    if rng.random() < 0.4:
        return corrupt_bytes(data, (), rng)
    start = rng.randrange(2, len(data))
    taken = rng.choice((0, 0, 1, 2, 5, 30))
    return data[:start] + rng.choice(_FRAGMENTS) + data[start + taken :]


def corrupt_file(path: Path, rng: random.Random) -> None:
    """Replaces a file by a folder, a pipe, a link or an empty file."""
    content = path.read_bytes()
    path.unlink()
    fault = rng.randrange(7)
    if fault == 0:
        path.mkdir()
    elif fault == 1:
        os.mkfifo(path)
    elif fault == 2:
        path.symlink_to("/dev/zero")
    elif fault == 3:
        path.symlink_to(path.name)  # a loop
    elif fault == 4:
        path.symlink_to("/proc/self/mem")
    elif fault == 5:
        path.touch()
    elif rng.random() < 0.5:
        outside = path.parent.parent / f"outside_{path.name}"
        outside.write_bytes(content[: len(content) // 2])
        path.symlink_to(outside)
