"""The declaration of a config key: everything known about it, in one place."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Key:
    """Everything known about a config key except its name.

    Attributes:
        meaning: one line, with the unit of a quantity.
        default: value if the run does not set the key; None: unset, and may stay unset.
        kind: type of the values; required if the default is None.
        choices: allowed strings, for the value or for the elements of a tuple; (): any.
        low: smallest number allowed.
        high: largest number allowed.
        below: bound of the numbers allowed, which is not one of them; instead of `high`.
        check: value -> what is wrong with it, as a sentence; "" if it is valid.
        is_path: whether it names a file or folder.
        local_only: why that cannot be in an object store, as a sentence without its full stop.
        may_be_empty: whether a path may be the empty string, which means none.
        used_with: keys and values for which this key has an effect, "loss.name=jsd"; "": always.
        on_change: effect of a new value on a resumed run, shown in its `changed` line; "" if it is
            obvious, None: inherited from the group.
        validation: which validation results depend on it, so that checkpoints with different values
            cannot be ranked together. "model": every value; "batch": the loss and the accuracies
            within a batch; "data": which examples they were measured on.
        per_process: whether it may differ between the processes of a run, for example paths on a
            host, or how fast data are prepared.
    """

    meaning: str
    default: Any = None
    kind: type | None = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    below: float | None = None
    check: Callable[[Any], str] | None = None
    is_path: bool = False
    local_only: str = ""
    may_be_empty: bool = False
    used_with: str | None = None
    on_change: str | None = None
    validation: Literal["model", "batch", "data", ""] | None = None
    per_process: bool | None = None

    @property
    def bounds(self) -> str:
        """The range of the numbers allowed, "from 0 to 1"; "" if all are."""
        if self.low is not None and self.high is not None:
            return f"from {self.low} to {self.high}"
        lowest = [] if self.low is None else [f"at least {self.low}"]
        highest = [] if self.high is None else [f"at most {self.high}"]
        limit = [] if self.below is None else [f"below {self.below}"]
        return " and ".join(lowest + highest + limit)


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of related keys.

    Attributes:
        meaning: one line.
        members: keys and groups by name, in the order in which they are documented.
    """

    meaning: str
    members: Mapping[str, Key | Group]

    def keys(self, prefix: str = "") -> Iterator[tuple[str, Key]]:
        """Yields (dotted name, key) for every key in this group and its subgroups."""
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield from member.keys(f"{prefix}{name}.")
            else:
                yield prefix + name, member

    def groups(self, prefix: str = "") -> Iterator[tuple[str, Group]]:
        """Yields (dotted name, group) for every group below this one."""
        for name, member in self.members.items():
            if isinstance(member, Group):
                yield prefix + name, member
                yield from member.groups(f"{prefix}{name}.")

    def saying(self, **facts: Any) -> Group:
        """The group, with `facts` of `Key` filled into the keys that do not set them themselves."""

        def filled(member: Key | Group) -> Key | Group:
            if isinstance(member, Group):
                return member.saying(**facts)
            missing = {k: value for k, value in facts.items() if getattr(member, k) is None}
            return dataclasses.replace(member, **missing)

        members = {name: filled(member) for name, member in self.members.items()}
        return Group(self.meaning, members)


def key(default: Any, meaning: str, **facts: Any) -> Any:
    """A dataclass field that declares a config key; `facts` are the attributes of `Key`.

    Each group of keys is a frozen dataclass whose fields are declared this way; an encoder declares
    the settings specific to it in its own file.

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
    """A dataclass field that declares a group of keys nested in the dataclass.

    Args:
        members: the dataclass that declares the keys, or a function that returns the group.
        meaning: one line.
        **facts: attributes of `Key`, for the keys that do not set them themselves.
    """
    return dataclasses.field(default=None, metadata={"group": (members, meaning, facts)})


def declared(cls: type) -> dict[str, Key]:
    """The keys that a dataclass declares, by name, without nested groups."""
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
