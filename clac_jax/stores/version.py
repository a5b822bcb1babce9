"""Versions of objects, and what is known of an object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Version:
    """Which of the contents that an object has had; only compared and handed back.

    On S3 the tag of equal bytes is equal. Put a random number into objects that are written by
    condition, so that no two contents are.

    Attributes:
        e_tag: the tag of the content, on stores that do not count.
        generation: the number of the version, on stores that count (GCS).
    """

    e_tag: str | None
    generation: str | None = None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Version:
        """From the answer of obstore to a put, get, head or list.

        Version ids other than numbers (S3, Azure) are left out: not every answer has one, and
        conditions there are by tag.
        """
        number = answer.get("version")
        if number and number.isdigit():
            return cls(None, number)
        return cls(answer.get("e_tag"))

    def as_json(self) -> dict[str, str | None]:
        """As a JSON object."""
        return {"e_tag": self.e_tag, "generation": self.generation}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Version:
        """From the JSON object of `as_json`."""
        return cls(values.get("e_tag"), values.get("generation"))

    def as_condition(self) -> dict[str, str]:
        """As obstore's condition of a put, which accepts no None."""
        parts = {"e_tag": self.e_tag, "version": self.generation}
        return {name: value for name, value in parts.items() if value is not None}


@dataclass(frozen=True)
class Stored:
    """Bytes of an object, and the version that they are of."""

    data: bytes
    version: Version


@dataclass(frozen=True)
class Listed:
    """Name, size in bytes and version of an object."""

    name: str
    size: int
    version: Version
