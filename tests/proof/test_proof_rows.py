"""Which rows of a file differ from those that a chain covers."""

from hypothesis import given
from hypothesis import strategies as st

from clac_jax.proof.rows import differing

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
