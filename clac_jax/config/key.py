"""The declaration of one config key: everything that is known of it, in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Key:
    """What is known of a config key besides its name.

    Attributes:
        meaning: one line, with the unit of a quantity.
        default: value of a run that does not set the key; None: not set, and allowed to stay so.
        kind: type of its values; needed where the default is None.
        choices: the texts it may be, or, for a tuple, its elements; (): any.
        low: smallest number allowed.
        high: largest number allowed.
        check: value -> what is wrong with it, as a sentence; "" where nothing is.
        is_path: whether it names a local file or folder.
        may_be_empty: whether the empty text is allowed for a path, and means none.
        used_with: the keys and values with which it has an effect, "loss.name=jsd"; "": always.
        on_change: what another value means for a run that resumes, said in its `changed` line; ""
            where that is plain, None: what the group says.
        validation: what of a validation depends on it, so that checkpoints with another value
            cannot be ranked together. "model": every value; "batch": the loss and the accuracies
            within a batch; "data": which examples they were measured on.
    """

    meaning: str
    default: Any = None
    kind: type | None = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    check: Callable[[Any], str] | None = None
    is_path: bool = False
    may_be_empty: bool = False
    used_with: str | None = None
    on_change: str | None = None
    validation: Literal["model", "batch", "data", ""] | None = None


@dataclasses.dataclass(frozen=True)
class Group:
    """Keys that belong together.

    Attributes:
        meaning: one line.
        members: keys and groups by name, in the order in which they are documented.
    """

    meaning: str
    members: Mapping[str, Key | Group]

    def keys(self, prefix: str = "") -> Iterator[tuple[str, Key]]:
        """(dotted name, key) of every key here and in the groups below."""
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield from member.keys(f"{prefix}{name}.")
            else:
                yield prefix + name, member

    def groups(self, prefix: str = "") -> Iterator[tuple[str, Group]]:
        """(dotted name, group) of every group below this one."""
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield prefix + name, member
                yield from member.groups(f"{prefix}{name}.")

    def saying(self, **facts: Any) -> Group:
        """The group with `facts` of `Key` in its keys, where they do not say them themselves."""

        def filled(member: Key | Group) -> Key | Group:
            if isinstance(member, Group):
                return member.saying(**facts)
            missing = {k: value for k, value in facts.items() if getattr(member, k) is None}
            return dataclasses.replace(member, **missing)

        members = {name: filled(member) for name, member in self.members.items()}
        return Group(self.meaning, members)


def key(default: Any, meaning: str, **facts: Any) -> Any:
    """A dataclass field that declares a config key; `facts` are those of `Key`.

    Each group of keys is a frozen dataclass whose fields are declared so; an encoder declares the
    settings that only it has in its own file.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Augment:
        ...     max_strain: float = key(0.05, "largest strain of a view", low=0.0, high=0.5)
        >>> declared(Augment)["max_strain"].high
        0.5
    """
    kind = facts.pop("kind", None) or type(default)
    declaration = Key(meaning, default=default, kind=kind, **facts)
    return dataclasses.field(default=default, metadata={"key": declaration})


def group(members: type | Callable[[], Group], meaning: str, **facts: Any) -> Any:
    """A dataclass field that declares a group of keys below the dataclass's own.

    Args:
        members: the dataclass that declares them, or a function that returns the group.
        meaning: one line.
        **facts: of `Key`, for the keys that do not say them themselves.
    """
    return dataclasses.field(default=None, metadata={"group": (members, meaning, facts)})


def declared(cls: type) -> dict[str, Key]:
    """The keys that a dataclass declares, by name, without the groups below."""
    fields = dataclasses.fields(cls)
    return {each.name: each.metadata["key"] for each in fields if "key" in each.metadata}


def group_of(cls: type, meaning: str) -> Group:
    """The keys and groups that a dataclass declares."""
    members: dict[str, Key | Group] = {}
    for each in dataclasses.fields(cls):
        if "key" in each.metadata:
            members[each.name] = each.metadata["key"]
            continue
        source, meaning_below, facts = each.metadata["group"]
        below = group_of(source, meaning_below) if isinstance(source, type) else source()
        members[each.name] = Group(meaning_below, below.saying(**facts).members)
    return Group(meaning, members)
