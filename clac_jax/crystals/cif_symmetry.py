"""What a CIF says of its symmetry: operations, a space group, or something that is not read."""

from __future__ import annotations

import re
from collections.abc import Sequence

from clac_jax.crystals.cif_block import Block, number
from clac_jax.crystals.numbers import CrystalError
from clac_jax.crystals.space_groups import Declaration
from clac_jax.crystals.symmetry import Operations, group_of, magnetic_group_of, same_operations
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
_STANDARD_SYMBOL = "_space_group_name_h-m_ref"  # of the group, in whatever setting the file is
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
# Tags of a group that declare no symmetry by themselves.
_SILENT = re.compile(r"_id$|_code$|_wyckoff|_details$|_description$|_sg_id$")
# Tags that no dictionary has, or others than those of this block's symmetry.
_OTHER_TAGS = re.compile(
    r"space_?group|symop|equiv_pos|int_?tables|hermann|schoenflies|h-m($|_)|_sg(_|$)|_hall($|_)"
)
_P1 = ("p1", "p 1", "1", "x,y,z", "x, y, z", "c1^1")
_GROUP_TAGS = ("_space_group", "_symmetry", "_magnetic_space_group", "_parent_space_group")


def written_operations(block: Block) -> Operations | None:
    """The group of the operations that the file lists; None if it lists none.

    Raises:
        CrystalError: see `group_of`; or two lists are there and differ.
    """
    magnetic, centrings = _triplets(block, _MAGNETIC), _triplets(block, _CENTRING)
    if magnetic or centrings:
        return magnetic_group_of(magnetic, centrings)
    lists = [triplets for tag in _OPERATIONS if (triplets := _triplets(block, tag))]
    if lists:
        groups = [group_of(triplets) for triplets in lists]
        if not all(same_operations(groups[0], other) for other in groups[1:]):
            raise CrystalError(
                "The CIF has two lists of symmetry operations, which differ. Keep the right one."
            )
        return groups[0]
    generators = _triplets(block, _GENERATORS)
    return group_of(generators, close=True) if generators else None


def _triplets(block: Block, tag: str) -> tuple[str, ...]:
    return tuple(text for text in block.column(tag) if text is not None)


def declaration(block: Block) -> Declaration:
    """The space group that a block declares, by whichever tags.

    Raises:
        CrystalError: its numbers differ, or one is not an integer.
    """
    written = block.value(*_NUMBERS)
    numbers = {text for tag in _NUMBERS for text in block.column(tag) if text is not None}
    if written is not None:
        values = {number(text, "The space group number")[0] for text in numbers}
        if len(values) > 1 or not all(value == round(value) for value in values):
            raise CrystalError(
                f"The CIF has the space group number {', '.join(sorted(numbers))[:40]}. Give one "
                "number from 1 to 230."
            )
    written_symbols = (text for tag in _SYMBOLS for text in block.column(tag) if text is not None)
    symbols = tuple(dict.fromkeys(written_symbols)) or tuple(block.everything(_STANDARD_SYMBOL))
    return Declaration(
        symbols=symbols,
        hall=block.value(*_HALLS),
        number=None if written is None else int(number(written, "")[0]),
        schoenflies=block.value(*_SCHOENFLIES),
        code=block.value(_CODE),
    )


def refuse_modulated(block: Block) -> None:
    """A modulated crystal has operations in more than three dimensions.

    Raises:
        CrystalError: the block describes one.
    """
    dimension = block.value("_cell_modulation_dimension")
    if dimension not in (None, "0") or any("_ssg_" in tag for tag in block.tags()):
        raise CrystalError(
            "The CIF describes a modulated crystal (superspace operations), which has no unit cell "
            "in space. Give a commensurate approximation of it."
        )


def refuse_other_symmetry(block: Block, others: Sequence[Block]) -> None:
    """A file that says something of its symmetry that is not read must not become P1.

    Args:
        block: with the atoms; it declares no group and lists no operations.
        others: without atoms, whose symmetry may be meant for them.

    Raises:
        CrystalError: one of them declares a symmetry.
    """
    for place in (block, *others):
        for tag in place.tags():
            is_other = not tag.startswith(_GROUP_TAGS)
            if is_other and not _OTHER_TAGS.search(tag):
                continue
            values = [] if _SILENT.search(tag) else place.everything(tag)
            if not values or (is_other and all(value.lower() in _P1 for value in values)):
                continue
            value = values[0]
            if tag in _SYSTEMS and value.lower() in ("triclinic", "anorthic"):
                continue
            raise CrystalError(
                f"The CIF declares a symmetry by {one_line(tag, 80)} {value[:40]!a}, which gives "
                "no operations for its atoms. Write the symmetry operations out."
            )
