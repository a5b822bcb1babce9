"""Declaring keys and groups of keys."""

from dataclasses import dataclass

import pytest

from clac_jax.config.key import Group, Key, declared, group, group_of, key


@dataclass(frozen=True)
class Inner:
    rate: float = key(0.5, "a rate", low=0.0, high=1.0)
    plain: bool = key(True, "a switch", on_change="")


@dataclass(frozen=True)
class Outer:
    size: int | None = key(None, "a size", kind=int)
    inner: None = group(Inner, "Inner keys.", on_change="starts again", used_with="size=3")


def test_a_key_has_the_type_of_its_default_or_the_declared_one():
    assert declared(Inner)["rate"].kind is float
    assert declared(Outer)["size"] == Key("a size", kind=int)
    assert Inner().rate == 0.5


def test_a_group_says_for_its_keys_what_they_do_not_say_themselves():
    keys = dict(group_of(Outer, "").keys())
    assert list(keys) == ["size", "inner.rate", "inner.plain"]
    assert keys["inner.rate"].on_change == "starts again"
    assert keys["inner.plain"].on_change == ""
    assert keys["size"].on_change is None
    assert keys["inner.plain"].used_with == "size=3"


def test_groups_are_found_by_their_dotted_names():
    outer = Group("", {"a": group_of(Outer, "An outer group.")})
    assert [(name, each.meaning) for name, each in outer.groups()] == [
        ("a", "An outer group."),
        ("a.inner", "Inner keys."),
    ]


def test_a_fact_that_keys_do_not_have_is_an_error():
    with pytest.raises(TypeError, match="lowest"):
        key(1, "a number", lowest=0)
