"""The settings (origin and axes) that a declared space group can mean."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import gemmi
import spglib

from clac_jax.crystals.numbers import CrystalError
from clac_jax.crystals.symmetry import (
    OperationError,
    Operations,
    group_from_hall_symbol,
    group_from_triplets,
    same_operations,
)

_ORIGIN = (
    (re.compile(r"origin[^0-9]*1", re.IGNORECASE), "1"),
    (re.compile(r"origin[^0-9]*2", re.IGNORECASE), "2"),
)
MAX_SYMBOL = 100  # characters, including remarks on the origin
_REMARK = re.compile(r"[({\[][^)}\]]*[a-zA-Z]{4,}[^)}\]]*[)}\]]")
_CODE = re.compile(
    r"([12hr]?)(.*)", re.DOTALL
)  # "1cab": origin choice or type of axes, and their order
_COLON = re.compile(r"^(.*?)\s*:\s*([12hr])$", re.IGNORECASE)
# Notation of a public database for origin choices 1 (S) and 2 (Z, at a centre of symmetry).
_LETTER = re.compile(r"^(.*\S)\s*([SZ])$")


@dataclass(frozen=True)
class Declaration:
    """The space group that a file declares, apart from operations; None for missing items.

    Attributes:
        symbols: Hermann-Mauguin symbols, the most specific first.
        hall: Hall symbol.
        number: number from 1 to 230.
        schoenflies: Schoenflies symbol.
        code: code of the coordinate system: "1", "2", "h", "r", "b1", "-cba", ...
    """

    symbols: tuple[str, ...] = ()
    hall: str | None = None
    number: int | None = None
    schoenflies: str | None = None
    code: str | None = None

    def __bool__(self) -> bool:
        return bool(self.symbols or self.hall or self.number or self.schoenflies)

    def __str__(self) -> str:
        parts = [*self.symbols, self.hall, self.number and f"number {self.number}"]
        return repr(next((str(part)[:40] for part in (*parts, self.schoenflies) if part), ""))


@dataclass(frozen=True)
class Setting:
    """A setting of a space group: its extended Hermann-Mauguin symbol and its operations."""

    name: str
    operations: Operations


def settings(declared: Declaration, alpha: float, gamma: float) -> list[Setting]:
    """All settings that a declaration can mean, whether they fit the cell or not.

    Args:
        declared: the declared space group.
        alpha: cell angle, degrees; with gamma it determines the unique axis of a short monoclinic
            symbol.
        gamma: cell angle, degrees.

    Raises:
        CrystalError: the declaration is unknown or contradictory.
    """
    number = declared.number
    if declared.schoenflies:
        by_schoenflies = _schoenflies_numbers().get(_normalized(declared.schoenflies))
        if by_schoenflies is None and not (declared.symbols or declared.hall or number):
            raise _unknown(declared)
        number = _agreed(declared, number, by_schoenflies)
    groups: list[gemmi.SpaceGroup] = []
    for symbol in declared.symbols:
        found = _of_symbol(symbol, alpha, gamma)
        if found:
            number = _agreed(declared, number, found[0].number)
            groups = _combined(groups, found)
    if declared.hall:
        hall = _of_hall(declared, number)
        if hall is not None:
            return [hall, *_others(hall, groups)]
    if not groups:
        if number is None:
            raise _unknown(declared)
        groups = _of_number(declared, number)
    return [Setting(group.xhm(), _operations(group)) for group in _coded(groups, declared.code)]


def _of_symbol(symbol: str, alpha: float, gamma: float) -> list[gemmi.SpaceGroup]:
    """The settings of a Hermann-Mauguin symbol, with all origins or axes that it leaves open."""
    if len(symbol) > MAX_SYMBOL:  # the time of the patterns below is cubic in the length
        return []
    ext = next((code for pattern, code in _ORIGIN if pattern.search(symbol)), None)
    name = " ".join(_REMARK.sub(" ", symbol).split())
    if match := _COLON.match(name):
        name, ext = match[1], match[2].upper()
    group = _named(name, alpha, gamma)
    if group is None and (match := _LETTER.match(name)):
        name, ext = match[1], "1" if match[2] == "S" else "2"
        group = _named(name, alpha, gamma)
    if group is None:
        return []
    siblings = [other for other in _table()[group.number] if other.hm == group.hm]
    if group.ext in ("H", "R"):
        return siblings  # the cell decides, as some remarks on the axes are wrong
    return [other for other in siblings if other.ext == ext] or siblings


def _named(name: str, alpha: float, gamma: float) -> gemmi.SpaceGroup | None:
    """The group of a symbol in any notation of screw axes."""
    bare = re.sub(r"\((\d)\)", r"\1", name)
    for text in dict.fromkeys((name, bare, bare.replace("_", ""), bare.replace("_", " "))):
        if text and len(text) < 40 and text.isascii():
            group = gemmi.find_spacegroup_by_name(text, alpha, gamma)
            if group is not None:
                return group
    return _full_symbols().get(_normalized(bare))


def _of_hall(declared: Declaration, number: int | None) -> Setting | None:
    """The setting of the Hall symbol; None if it is invalid but the group is declared otherwise.

    Raises:
        CrystalError: it contradicts the number of the space group, or is the only declaration and
            invalid.
    """
    assert declared.hall is not None
    try:
        operations = group_from_hall_symbol(declared.hall)
    except OperationError:
        if declared.symbols or number is not None:
            return None
        raise
    group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(declared.hall))
    if group is not None:
        _agreed(declared, number, group.number)
    return Setting(declared.hall, operations)


def _combined(
    groups: list[gemmi.SpaceGroup], found: list[gemmi.SpaceGroup]
) -> list[gemmi.SpaceGroup]:
    """The settings that two symbols allow; those of both if they contradict each other."""
    if any(group.hm == found[0].hm for group in groups):
        names = {group.xhm() for group in found}
        return [group for group in groups if group.xhm() in names] or groups
    return [*groups, *found]


def _others(hall: Setting, groups: Sequence[gemmi.SpaceGroup]) -> list[Setting]:
    """The settings of the symbols if they contradict the Hall symbol in more than the origin."""
    group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(hall.name))
    others = [Setting(other.xhm(), _operations(other)) for other in groups]
    if group is None or any(group.hm == other.hm for other in groups):
        return []
    # Some settings have two symbols, such as C c c a and C c c b.
    if any(same_operations(hall.operations, other.operations) for other in others):
        return []
    return others


def _of_number(declared: Declaration, number: int) -> list[gemmi.SpaceGroup]:
    """The standard setting of a number, or that of the coordinate-system code.

    With an unknown symbol, the number is only sufficient if it has a single setting and the same
    centring as the symbol: an unreadable spelling of P 21/n must not become P 21/c (number 14).
    """
    table = _table().get(number)
    if table is None:
        raise CrystalError(
            f"The CIF declares the space group number {number}. It must be from 1 to 230."
        )
    standard = gemmi.find_spacegroup_by_number(number)
    if declared.symbols:
        same_letter = any(
            symbol.strip()[:1].upper() == standard.hm[0] for symbol in declared.symbols
        )
        if len(table) > 1 or not same_letter:
            raise _unknown(declared)
    coded = [group for group in table if _is_named_by(group, declared.code or "")]
    code = declared.code or ""
    if not coded and len(table) > 1 and _origin_and_axes(code)[1]:
        raise CrystalError(
            f"The CIF declares the space group {declared} in the setting {code[:20]!a}, "
            "which is unknown. Correct the code or list the symmetry operations."
        )
    return [group for group in coded or table if group.hm == standard.hm] or coded


def _coded(groups: Sequence[gemmi.SpaceGroup], code: str | None) -> Sequence[gemmi.SpaceGroup]:
    """The settings with the coordinate system of a code.

    If the code and the symbol contradict each other, both settings are returned, and the cell and
    the atoms decide.
    """
    if not code:
        return groups
    both = [group for group in groups if _is_named_by(group, code)]
    if both:
        return both
    return [*groups, *(g for g in _table()[groups[0].number] if _is_named_by(g, code))]


def _is_named_by(group: gemmi.SpaceGroup, code: str) -> bool:
    """Whether a code ("2", "1cab", "b1", "h", or "") can mean a setting."""
    ext, axes = _origin_and_axes(code.strip().lower())
    qualifier = group.qualifier or "abc"
    if group.ext in ("1", "2", "H", "R"):
        if ext and ext.upper() != group.ext:
            return False
    elif ext and qualifier[-1].isdigit():  # the cell choice of a monoclinic group
        return not axes and qualifier[-1] == ext
    return qualifier.startswith(axes)


def _origin_and_axes(code: str) -> tuple[str, str]:
    """The parts of a code: "1cab" -> ("1", "cab")."""
    match = _CODE.fullmatch(code)
    assert match is not None, "the pattern matches every text"
    return match[1], match[2]


def _agreed(declared: Declaration, first: int | None, second: int | None) -> int | None:
    if first is not None and second is not None and first != second:
        raise CrystalError(
            f"The CIF declares two space groups, number {first} and number {second}, "
            f"one of them as {declared}. Correct one, or list the symmetry operations."
        )
    return first if second is None else second


def _unknown(declared: Declaration) -> CrystalError:
    return CrystalError(
        f"The CIF declares the space group {declared}, which is unknown. Correct the symbol or "
        "list the symmetry operations."
    )


def _operations(group: gemmi.SpaceGroup) -> Operations:
    return group_from_triplets(tuple(operation.triplet() for operation in group.operations()))


@functools.cache
def _table() -> dict[int, list[gemmi.SpaceGroup]]:
    table: dict[int, list[gemmi.SpaceGroup]] = {}
    for group in gemmi.spacegroup_table():
        table.setdefault(group.number, []).append(group)
    return table


@functools.cache
def _types() -> list[spglib.SpaceGroupType]:
    """All settings listed by spglib, with their Schoenflies and full symbols."""
    with warnings.catch_warnings():  # about the errors of later versions
        warnings.simplefilter("ignore", DeprecationWarning)
        found = [spglib.get_spacegroup_type(hall_number) for hall_number in range(1, 531)]
    return [kind for kind in found if kind is not None]


@functools.cache
def _schoenflies_numbers() -> dict[str, int]:
    return {_normalized(kind.schoenflies): kind.number for kind in _types()}


@functools.cache
def _full_symbols() -> dict[str, gemmi.SpaceGroup]:
    """Groups by full symbol ("f4/m-32/m"); if it is shared, the standard setting."""
    groups: dict[str, gemmi.SpaceGroup] = {}
    for kind in _types():
        group = gemmi.find_spacegroup_by_ops(gemmi.symops_from_hall(kind.hall_symbol))
        if group is not None:
            groups.setdefault(_normalized(kind.international_full), group)
    return groups


def _normalized(symbol: str) -> str:
    return re.sub(r"[\s_.^{}]", "", symbol).lower()
