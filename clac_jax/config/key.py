"""The declaration of one config key: everything that is known of it, in one place."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Key:
    """What is known of a config key beside its name and default.

    Attributes:
        meaning: one line, with the unit of a quantity.
        kind: type of its values; needed where the default is None, which then stays allowed.
        choices: the texts it may be; (): any.
        low: smallest number allowed.
        high: largest number allowed.
        on_change: what another value means for a run that resumes, said in its `changed` line;
            "" where that is plain.
    """

    meaning: str
    kind: type | None = None
    choices: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    on_change: str = ""


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
    return dataclasses.field(default=default, metadata={"key": Key(meaning, **facts)})


def declared(group: type) -> dict[str, Key]:
    """The keys that a dataclass declares, by name."""
    return {each.name: each.metadata["key"] for each in dataclasses.fields(group)}
