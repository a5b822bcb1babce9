"""The text of a CIF as blocks of plain values: the one place where the CIF library is called."""

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
    """The values of one data block by tag: lower case, with underscores only."""

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
        """All of them."""
        return self._items

    def column(self, tag: str) -> list[str | None]:
        """The values of a tag, none if it is not there; None where one is not known.

        Raises:
            CrystalError: the tag is there twice and with different values.
        """
        columns = self._columns(tag)
        if any(column != columns[0] for column in columns[1:]):
            raise CrystalError(
                f"The CIF has {tag} more than once, with different values. Keep the right one."
            )
        return columns[0] if columns else []

    def value(self, *tags: str) -> str | None:
        """The first known value of the tags."""
        return next((v for tag in tags for v in self.column(tag) if v is not None), None)

    def everything(self, tag: str) -> list[str]:
        """The known values of all occurrences of a tag, each once."""
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
        """Whether any coordinate of an atom is given."""
        return self.value(*FRACTIONAL, *_CARTESIAN) is not None


def blocks_of(text: str) -> list[Block]:
    """All blocks of a CIF; tolerates a byte order mark, any line ends and repeated tags.

    Raises:
        CrystalError: the text is not a CIF.
    """
    if not isinstance(text, str):
        raise CrystalError("The CIF is not text. Give the content of the file.")
    try:
        text = text.lstrip("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        data = text.rstrip("\x1a").encode("utf-8")  # with which DOS ends a file
        return [Block(block) for block in gemmi.cif.read_string(data, check_level=0)]
    except UnicodeError as error:
        raise CrystalError(
            "The CIF has a character that no file can hold (half of a surrogate pair). Remove it."
        ) from error
    except (RuntimeError, ValueError, TypeError, IndexError, OverflowError) as error:
        reason = " ".join(str(error).split()).removeprefix("string:")
        raise CrystalError(f"The CIF does not parse: {reason[:200]}. Correct the file.") from error


def _tag(name: str) -> str:
    """`_Space_Group.name_H-M_alt` and `_space_group_name_H-M_alt` are one tag."""
    return name.lower().replace(".", "_")


def _text(raw: str) -> str | None:
    """An unquoted value; None for `?` and `.`, and for nothing."""
    try:
        value = gemmi.cif.as_string(raw).strip()
    except (RuntimeError, ValueError) as error:
        raise CrystalError(f"The CIF has a value that cannot be read: {raw[:40]!r}.") from error
    return None if value in ("", "?", ".") else value


def number(text: str, tag: str) -> tuple[float, int]:
    """A number such as 4.05(2), and how many decimals it has.

    Raises:
        CrystalError: it is something else.
    """
    match = _NUMBER.fullmatch(text)
    value = math.inf if match is None else float(f"{match[1]}{match[2]}e{match[5] or 0}")
    if match is None or math.isinf(value):
        raise CrystalError(f"{tag} is {text[:40]!a}, which is not a number. Correct it.")
    decimals, bare, exponent = match[3], match[4], match[5]
    return value, len(decimals or bare or "") - int(exponent or 0)
