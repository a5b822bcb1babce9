"""Parsing of CIF text into data blocks of plain values; the only module that uses gemmi.cif."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

import gemmi

from clac_jax.crystals.numbers import CrystalError

FRACTIONAL = tuple(f"_atom_site_fract_{axis}" for axis in "xyz")
_CARTESIAN = tuple(f"_atom_site_cartn_{axis}" for axis in "xyz")
_NUMBER = re.compile(
    r"([+-]?)(\d+\.?(\d*)|\.(\d+))(?:[eE]([+-]?\d{1,3}))?(?:\s*\(\d*\))?", re.ASCII
)


class Block:
    """The values of a data block by tag; tags are in lower case, with underscores for dots."""

    def __init__(self, block: gemmi.cif.Block):
        self._items: dict[str, list[str | tuple[gemmi.cif.Loop, int]]] = {}
        for item in block:
            pair: tuple[str, str] | None = item.pair  # type: ignore[assignment]  # object in the stub
            if pair is not None:
                tag, value = pair
                self._items.setdefault(_tag(tag), []).append(value)
            elif item.loop is not None:
                for column, tag in enumerate(item.loop.tags):
                    self._items.setdefault(_tag(tag), []).append((item.loop, column))

    def tags(self) -> Iterable[str]:
        """All tags of the block."""
        return self._items

    def column(self, tag: str) -> list[str | None]:
        """The values of a tag, with None for unknown ones; empty if the tag is missing.

        Raises:
            CrystalError: the tag occurs repeatedly, with different values.
        """
        columns = self._columns(tag)
        if any(column != columns[0] for column in columns[1:]):
            raise CrystalError(
                f"The CIF has {tag} more than once, with different values. Keep the right one."
            )
        return columns[0] if columns else []

    def value(self, *tags: str) -> str | None:
        """The first known value of any of the tags, or None."""
        return next((v for tag in tags for v in self.column(tag) if v is not None), None)

    def all_values(self, tag: str) -> list[str]:
        """The distinct known values of all occurrences of a tag."""
        values = (value for column in self._columns(tag) for value in column)
        return [value for value in dict.fromkeys(values) if value is not None]

    def _columns(self, tag: str) -> list[list[str | None]]:
        columns = []
        for item in self._items.get(tag, ()):
            if isinstance(item, str):
                raw = [item]
            else:
                loop, column = item
                raw = loop.values[column :: loop.width()]
            columns.append([_text(text) for text in raw])
        return columns

    def has_sites(self) -> bool:
        """Whether the block has coordinates of any atom."""
        return self.value(*FRACTIONAL, *_CARTESIAN) is not None


def parse_blocks(text: str) -> list[Block]:
    """Parses all blocks of a CIF; allows a byte order mark, any line endings, and repeated tags.

    Raises:
        CrystalError: the text is not a valid CIF.
    """
    if not isinstance(text, str):
        raise CrystalError("The CIF is not a string. Pass the content of the file.")
    try:
        text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        data = text.rstrip("\x1a").encode("utf-8")  # end-of-file mark of DOS
        return [Block(block) for block in gemmi.cif.read_string(data, check_level=0)]
    except UnicodeError as error:
        raise CrystalError(
            "The CIF has an invalid character (a lone surrogate). Remove it."
        ) from error
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
        reason = " ".join(str(error).split()).removeprefix("string:")
        raise CrystalError(f"The CIF does not parse: {reason[:200]}. Correct the file.") from error


def _tag(name: str) -> str:
    """`_Space_Group.name_H-M_alt` and `_space_group_name_H-M_alt` are the same tag."""
    return name.lower().replace(".", "_")


def _text(raw: str) -> str | None:
    """An unquoted value; None for `?`, `.` and an empty one."""
    try:
        value = gemmi.cif.as_string(raw).strip()
    except (RuntimeError, ValueError) as error:
        raise CrystalError(
            f"The CIF has a value that cannot be read: {raw[:40]!r}. Correct it."
        ) from error
    return None if value in ("", "?", ".") else value


def parse_number(text: str, tag: str) -> tuple[float, int]:
    """Parses a number such as 4.05(2), with or without standard uncertainty.

    Returns:
        The value, and the number of its decimal places.

    Raises:
        CrystalError: the text is not a number.
    """
    match = _NUMBER.fullmatch(text)
    value = math.inf if match is None else float(f"{match[1]}{match[2]}e{match[5] or 0}")
    if match is None or math.isinf(value):
        raise CrystalError(f"{tag} is {text[:40]!a}, which is not a number. Correct it.")
    decimals, bare, exponent = match[3], match[4], match[5]
    return value, len(decimals or bare or "") - int(exponent or 0)
