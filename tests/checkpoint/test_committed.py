"""The small files of a checkpoint in one object."""

import pytest

from clac_jax.checkpoint.committed import pack, unpack

SMALL = {"files.json": b"{}", "run/metadata": bytes(range(256)), "state/_METADATA": b"x" * 9000}


def test_it_holds_what_was_put_into_it():
    assert unpack(pack(1404, SMALL)) == (1404, SMALL)


@pytest.mark.parametrize("place", range(0, 600, 40))
def test_damage_is_found_or_does_not_matter(place):
    data = bytearray(pack(8, SMALL))
    data[place % len(data)] ^= 0xFF
    try:
        assert unpack(bytes(data)) == (8, SMALL)
    except ValueError:
        pass


@pytest.mark.parametrize("data", [b"", b"PK", b"\0" * 100, pack(8, SMALL)[:-9]])
def test_something_else_is_refused(data):
    with pytest.raises(ValueError, match="does not describe a checkpoint"):
        unpack(data)
