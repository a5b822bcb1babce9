"""The words of a digest, and the odd numbers that they are made with."""

import numpy as np
import pytest

from clac_jax.digests.digest import Digest, odd_numbers, part_of, salt_of
from clac_jax.digests.host import array_digest


def test_it_is_shown_as_16_digits_and_read_again():
    digest = Digest(1, (1 << 32) - 1)
    assert str(digest) == "00000001ffffffff"
    assert Digest.of_text(str(digest)) == digest
    for text in ("", "0" * 15, "0" * 17, "x" * 16):
        with pytest.raises(ValueError):
            Digest.of_text(text)


def test_sums_wrap_around():
    large = Digest((1 << 32) - 1, 5)
    assert large + Digest(2, 3) == Digest(1, 8)
    assert Digest(1, 8) - large == Digest(2, 3)
    assert Digest.sum([large, Digest(2, 3)]) == Digest(1, 8)
    assert Digest.sum([]) == Digest(0, 0)


def test_the_numbers_are_odd_distinct_by_axis_and_word_and_prefixes_of_one_table():
    tables = [odd_numbers(word, axis, 5000) for word in (0, 1) for axis in range(4)]
    for table in tables:
        assert table.dtype == np.uint32 and np.all(table & 1)
        assert len(np.unique(table)) == len(table)
    assert len({table.tobytes() for table in tables}) == len(tables)
    np.testing.assert_array_equal(odd_numbers(0, 0, 70_000)[:5000], tables[0])
    assert odd_numbers(1, 2, 0).shape == (0,)


def test_the_salt_tells_path_shape_and_dtype_apart():
    salts = {
        salt_of(path, shape, dtype)
        for path in ("params/a", "params/b")
        for shape in ((2, 3), (3, 2), (6,))
        for dtype in ("float32", "int32")
    }
    assert len(salts) == 12
    assert all(number & 1 for salt in salts for number in salt.multiply)


def test_the_words_of_a_digest_are_those_of_the_first_version():
    """Journals and checkpoints hold them: a change would make all earlier ones wrong."""
    assert salt_of("step", (), "int32").add == (2914912570, 1299762669)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert str(array_digest("params/kernel", array)) == "c920ba652d821b79"
    assert odd_numbers(0, 0, 3).tolist() == [755968199, 1971679093, 2255797187]


@pytest.mark.parametrize(
    "path, part",
    [("params/a/b", "params"), ("opt_state/0", "opt_state"), ("step", "counters")],
)
def test_arrays_at_the_top_level_are_counters(path, part):
    assert part_of(path) == part
