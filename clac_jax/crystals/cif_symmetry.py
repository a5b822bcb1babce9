"""The symmetry of a CIF: listed operations, declared space group, or unsupported symmetry."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clac_jax.crystals.cif_block import Block, parse_number
from clac_jax.crystals.numbers import CrystalError
from clac_jax.crystals.space_groups import Declaration
from clac_jax.crystals.symmetry import (
    Operations,
    group_from_magnetic_triplets,
    group_from_triplets,
    same_operations,
)
from clac_jax.errors import one_line

_OPERATIONS = ("_space_group_symop_operation_xyz", "_symmetry_equiv_pos_as_xyz")
_GENERATORS = "_space_group_symop_generator_xyz"
_MAGNETIC = "_space_group_symop_magn_operation_xyz"
_CENTRING = "_space_group_symop_magn_centering_xyz"
_SYMBOLS = (
    "_space_group_name_h-m_alt",
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_full",
    "_symmetry_space_group_name_h-m_full",
    "_space_group_name_h-m",
    "_symmetry_space_group_name_h-m_alt",
)
_STANDARD_SYMBOL = (
    "_space_group_name_h-m_ref"  # standard symbol, independent of the setting of the file
)
_HALLS = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_NUMBERS = (
    "_space_group_it_number",
    "_symmetry_int_tables_number",
    "_symmetry_it_number",
    "_space_group_int_tables_number",
    "_symmetry_space_group_number",
)
_SCHOENFLIES = ("_space_group_name_schoenflies", "_symmetry_space_group_name_schoenflies")
_CODE = "_space_group_it_coordinate_system_code"
_SYSTEMS = ("_space_group_crystal_system", "_symmetry_cell_setting")
# Space-group tags that do not declare a symmetry.
_SILENT = re.compile(r"_id$|_code$|_wyckoff|_details$|_description$|_sg_id$")
# Tags that are not in the CIF dictionaries but refer to a symmetry.
_OTHER_TAGS = re.compile(
    r"space_?group|symop|equiv_pos|int_?tables|hermann|schoenflies|h-m($|_)|_sg(_|$)|_hall($|_)"
)
_P1 = ("p1", "p 1", "1", "x,y,z", "x, y, z", "c1^1")
_GROUP_TAGS = ("_space_group", "_symmetry", "_magnetic_space_group", "_parent_space_group")


def listed_operations(block: Block) -> Operations | None:
    """The group of the operations listed in the file; None if it lists none.

    Raises:
        CrystalError: the operations are invalid, see `group_from_triplets`, or two lists differ.
    """
    magnetic, centrings = _triplets(block, _MAGNETIC), _triplets(block, _CENTRING)
    if magnetic or centrings:
        return group_from_magnetic_triplets(magnetic, centrings)
    lists = [triplets for tag in _OPERATIONS if (triplets := _triplets(block, tag))]
    if lists:
        groups = [group_from_triplets(triplets) for triplets in lists]
        if not all(same_operations(groups[0], other) for other in groups[1:]):
            raise CrystalError(
                "The CIF has two different lists of symmetry operations. Keep one of them."
            )
        return groups[0]
    generators = _triplets(block, _GENERATORS)
    return group_from_triplets(generators, close=True) if generators else None


def _triplets(block: Block, tag: str) -> tuple[str, ...]:
    return tuple(text for text in block.column(tag) if text is not None)


def declaration(block: Block) -> Declaration:
    """The space group that a block declares, by any of the tags.

    Raises:
        CrystalError: the numbers of the space group differ, or one is not an integer.
    """
    written = block.value(*_NUMBERS)
    numbers = {text for tag in _NUMBERS for text in block.column(tag) if text is not None}
    if written is not None:
        values = {parse_number(text, "The space group number")[0] for text in numbers}
        if len(values) > 1 or not all(value == round(value) for value in values):
            raise CrystalError(
                f"The CIF has the space group number {', '.join(sorted(numbers))[:40]}. Use one "
                "number from 1 to 230."
            )
    written_symbols = (text for tag in _SYMBOLS for text in block.column(tag) if text is not None)
    symbols = tuple(dict.fromkeys(written_symbols)) or tuple(block.all_values(_STANDARD_SYMBOL))
    return Declaration(
        symbols=symbols,
        hall=block.value(*_HALLS),
        number=None if written is None else int(parse_number(written, "")[0]),
        schoenflies=block.value(*_SCHOENFLIES),
        code=block.value(_CODE),
    )


def refuse_modulated(block: Block) -> None:
    """Rejects modulated crystals, whose symmetry operations have more than three dimensions.

    Raises:
        CrystalError: the block describes a modulated crystal.
    """
    dimension = block.value("_cell_modulation_dimension")
    if dimension not in (None, "0") or any("_ssg_" in tag for tag in block.tags()):
        raise CrystalError(
            "The CIF describes a modulated crystal (superspace operations), which has no "
            "three-dimensional unit cell. Use a commensurate approximation."
        )


def refuse_other_symmetry(block: Block, others: Sequence[Block]) -> None:
    """Rejects a file with an unsupported declaration of symmetry, which must not be read as P1.

    Args:
        block: block with the atoms, which neither declares a group nor lists operations.
        others: blocks without atoms, whose symmetry may apply to those of `block`.

    Raises:
        CrystalError: one of the blocks declares a symmetry.
    """
    for place in (block, *others):
        for tag in place.tags():
            is_other = not tag.startswith(_GROUP_TAGS)
            if is_other and not _OTHER_TAGS.search(tag):
                continue
            values = [] if _SILENT.search(tag) else place.all_values(tag)
            if not values or (is_other and all(value.lower() in _P1 for value in values)):
                continue
            value = values[0]
            if tag in _SYSTEMS and value.lower() in ("triclinic", "anorthic"):
                continue
            raise CrystalError(
                f"The CIF declares a symmetry by {one_line(tag, 80)} {value[:40]!a}, but no "
                "operations for its atoms. Add a list of the symmetry operations."
            )
