"""The small files of a checkpoint in one object."""

import contextlib
import json
import zlib

import pytest

from clac_jax.checkpoint.committed import pack, unpack

FILES = {"run/metadata": bytes(range(256)), "state/_METADATA": b"x" * 900}


def with_manifest(files):
    listed = {name: [len(data), zlib.crc32(data)] for name, data in files.items()}
    crc = zlib.crc32(json.dumps(listed, sort_keys=True).encode())
    return {**files, "files.json": json.dumps({"crc32": crc, "files": listed}).encode()}


SMALL = with_manifest(FILES)


def test_it_holds_what_was_put_into_it():
    assert unpack(pack(1404, SMALL)) == (1404, SMALL)


def test_any_damaged_byte_is_found_or_harms_no_content():
    data = pack(8, SMALL)
    for place in range(len(data)):
        for bits in (1, 255):
            changed = bytearray(data)
            changed[place] ^= bits
            with contextlib.suppress(ValueError):
                _, small = unpack(bytes(changed))
                assert small.items() <= SMALL.items()
        with contextlib.suppress(ValueError):
            unpack(data[:place])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"\0" * 100,
        pack(8, SMALL)[:-9],
        pack(8, FILES),
        pack(8, {**SMALL, "../outside": b""}),
        pack(8, {**SMALL, "run/metadata": b"a different content"}),
    ],
)
def test_something_else_is_refused(data):
    with pytest.raises(ValueError, match="does not describe a checkpoint"):
        unpack(data)
