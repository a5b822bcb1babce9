"""Reading of crystals from CIF text; every problem with the text is a `CrystalError`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from vesin import NeighborList

from clac_jax.crystals import elements
from clac_jax.crystals.cif_block import FRACTIONAL, Block, parse_blocks, parse_number
from clac_jax.crystals.cif_elements import (
    FormulaSum,
    assign_elements,
    count_atoms,
    element_candidates,
)
from clac_jax.crystals.cif_symmetry import (
    declaration,
    listed_operations,
    refuse_modulated,
    refuse_other_symmetry,
)
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.numbers import (
    MAX_ATOMS,
    MAX_COORDINATE,
    CrystalError,
    lattice_from_parameters,
)
from clac_jax.crystals.space_groups import Declaration, settings
from clac_jax.crystals.symmetry import IDENTITY, Operations

MERGE_DISTANCE = 0.05
"""Angstrom; images of a site that are closer are always merged."""

MAX_MERGE_DISTANCE = 0.35
"""Angstrom, half the shortest bond (H2); images farther apart are never merged."""

_CELL_LENGTHS = tuple(f"_cell_length_{edge}" for edge in "abc")
_CELL_ANGLES = tuple(f"_cell_angle_{angle}" for angle in ("alpha", "beta", "gamma"))
_DUMMIES = re.compile(r"(x|xx|du|dum|dummy|q)(?![a-z])", re.IGNORECASE)
_VACANCIES = re.compile(
    r"(Va|VAC|[Vv]ac|[Vv]acan[a-z]+)(?![a-z])"
)  # vanadium if the formula has it
_FULL, _OVERFULL = 1.0 - 1e-3, 1.0 + 0.05  # of an occupancy; refined ones may slightly exceed 1


class FormulaMismatch(CrystalError):
    """The sites of a CIF do not match its formula sum."""


@dataclass(frozen=True)
class CifCrystal:
    """A crystal, and how its atoms differ from the formula sum of the CIF ("" if they match)."""

    crystal: Crystal
    mismatch: str = ""

    def checked(self) -> Crystal:
        """The crystal, if it matches the formula sum.

        Raises:
            FormulaMismatch: it does not.
        """
        if self.mismatch:
            raise FormulaMismatch(
                f"{self.mismatch} Correct one of them, or accept such crystals with "
                "--on_formula_mismatch=take (`train`: --config.dataset.on_formula_mismatch=take)."
            )
        return self.crystal


@dataclass(frozen=True)
class _Site:
    """A site of the CIF; `precision` is in angstrom, see `Operations.images`."""

    label: str | None
    type_symbol: str | None
    fractional: tuple[float, float, float]
    precision: float


def read(text: str) -> CifCrystal:
    """Reads the first block with atoms and applies its symmetry.

    docs/data.md describes what is supported, what is rejected, and why.

    Raises:
        CrystalError: the text is not a CIF or does not describe an ordered crystal.
    """
    blocks = parse_blocks(text)
    for block in blocks:
        if block.has_sites():
            others = [other for other in blocks if other is not block and not other.has_sites()]
            return _read_block(block, others)
    raise CrystalError("The CIF has no atom sites. Add them with _atom_site_fract_x, _y and _z.")


def _read_block(block: Block, others: Sequence[Block]) -> CifCrystal:
    lengths = [_cell_number(block, tag) for tag in _CELL_LENGTHS]
    angles = [_cell_number(block, tag) for tag in _CELL_ANGLES]
    lattice = lattice_from_parameters(*lengths, *angles)
    formula = next(iter(_formulas(block)), None)
    sites = _sites(block, lengths, formula)
    refuse_modulated(block)
    operations = listed_operations(block)
    try:
        declared = declaration(block)
    except CrystalError:
        if operations is None:
            raise
        declared = Declaration()  # operations need no number
    if operations is None and not declared:
        refuse_other_symmetry(block, others)
        return _build(sites, IDENTITY, lattice, formula, block)
    if operations is None:
        return _build_in_declared_setting(block, declared, sites, lattice, angles, formula)
    if not operations.fit(lattice):
        raise CrystalError(
            "The symmetry operations of the CIF do not fit its cell: they do not preserve its "
            "lengths and angles. Correct the cell or the operations."
        )
    found = _build(sites, operations, lattice, formula, block)
    if declared:
        _compare_with_symbol(found.crystal, operations, declared, lattice, angles)
    return found


def _cell_number(block: Block, tag: str) -> float:
    text = block.value(tag)
    if text is None:
        raise CrystalError(f"The CIF has no unit cell: {tag} is missing. Add it.")
    return parse_number(text, tag)[0]


def _sites(block: Block, lengths: Sequence[float], formula: FormulaSum | None) -> list[_Site]:
    columns = [block.column(tag) for tag in FRACTIONAL]
    for tag, column in zip(FRACTIONAL, columns, strict=True):
        if not column:
            raise CrystalError(
                f"The CIF has no {tag}. Add fractional coordinates for every site (Cartesian ones "
                "are not supported)."
            )
    count = len(columns[0])
    if count > MAX_ATOMS:
        raise CrystalError(
            f"The CIF has {count:,} sites; the limit is {MAX_ATOMS:,}. Use a smaller cell."
        )
    names = ("label", "type_symbol", "occupancy", "calc_flag", "disorder_group")
    rest = {name: block.column(f"_atom_site_{name}") or [None] * count for name in names}
    if not block.column("_atom_site_label"):
        rest["label"] = block.column("_atom_site_label_atom_id") or rest["label"]
    if any(len(column) != count for column in (*columns, *rest.values())):
        raise CrystalError(
            "The columns _atom_site_... of the CIF do not have one value per site. Write them in "
            "one loop."
        )
    if len(set(rest["disorder_group"]) - {None}) > 1:
        raise CrystalError(
            "The CIF has sites of several disorder groups. Only ordered crystals are supported: "
            "keep one group."
        )
    sites = []
    for row in range(count):
        label, kind = rest["label"][row], rest["type_symbol"][row]
        if (rest["calc_flag"][row] or "").lower() == "dum" or _is_dummy(kind or label, formula):
            continue
        name = ascii(label or kind or row)[:20]
        _check_occupancy(rest["occupancy"][row], name)
        numbers = [
            _coordinate(column[row], tag, name)
            for tag, column in zip(FRACTIONAL, columns, strict=True)
        ]
        spread = math.hypot(
            *(length * 10.0**-digits for length, (_, digits) in zip(lengths, numbers, strict=True))
        )
        x, y, z = (value for value, _ in numbers)
        sites.append(
            _Site(label, kind, (x, y, z), min(max(spread, MERGE_DISTANCE), MAX_MERGE_DISTANCE))
        )
    if not sites:
        raise CrystalError("The CIF has only dummy sites. Add its atoms.")
    return sites


def _is_dummy(name: str | None, formula: FormulaSum | None) -> bool:
    """Whether a site is a dummy or a vacancy, which only a formula sum can confirm."""
    is_vacancy = name is not None and _VACANCIES.match(name) is not None
    if is_vacancy and formula is not None and formula.has("V"):
        return False
    if name is None or not (is_vacancy or _DUMMIES.match(name)):
        return False
    if formula is None:
        raise CrystalError(
            f"The site {name[:20]!a} of the CIF is not an element. Remove it or name its element."
        )
    return True


def _check_occupancy(text: str | None, name: str) -> None:
    occupancy = 1.0 if text is None else parse_number(text, "_atom_site_occupancy")[0]
    if not _FULL <= occupancy <= _OVERFULL:
        raise CrystalError(
            f"Site {name} of the CIF has the occupancy {occupancy:g}. Only ordered crystals are "
            "supported: use an ordered cell."
        )


def _coordinate(text: str | None, tag: str, name: str) -> tuple[float, int]:
    if text is None:
        raise CrystalError(
            f"Site {name} of the CIF has no {tag}. Add all coordinates of every site."
        )
    value, digits = parse_number(text, tag)
    if not abs(value) <= MAX_COORDINATE:
        raise CrystalError(f"Site {name} of the CIF has {tag} {value:g}. Correct it.")
    return value, min(max(digits, 0), 12)


def _build(
    sites: Sequence[_Site],
    operations: Operations,
    lattice: np.ndarray,
    formula: FormulaSum | None,
    block: Block,
) -> CifCrystal:
    images = operations.images(
        np.array([site.fractional for site in sites]),
        np.array([site.precision for site in sites]),
        lattice,
        MAX_ATOMS,
    )
    multiplicities = [len(image) for image in images]
    symbols = assign_elements(
        [element_candidates(site.type_symbol, site.label) for site in sites],
        multiplicities,
        formula,
    )
    numbers = np.repeat([elements.atomic_number(symbol) for symbol in symbols], multiplicities)
    crystal = Crystal(lattice, numbers.astype(np.int32), np.concatenate(images) @ lattice)
    counts = count_atoms(symbols, multiplicities)
    mismatches = [mismatch for one in _formulas(block) if (mismatch := one.mismatch(counts))]
    return CifCrystal(crystal, mismatches[0] if mismatches else _attached_hydrogen(block))


def _formulas(block: Block) -> list[FormulaSum]:
    """The formula sums of a block that can be parsed; some programs write two."""
    parsed = map(FormulaSum.parse, block.all_values("_chemical_formula_sum"))
    return [formula for formula in parsed if formula is not None]


def _declared_units(block: Block) -> float | None:
    """The value of `_cell_formula_units_Z`, if it is a number and unique."""
    written = block.all_values("_cell_formula_units_z")
    try:
        return parse_number(written[0], "")[0] if len(written) == 1 else None
    except CrystalError:
        return None


def _attached_hydrogen(block: Block) -> str:
    """A sentence on hydrogen atoms that are declared without sites, or ""."""
    column = block.column("_atom_site_attached_hydrogens")
    if not any(text is not None and text.strip("0.+") for text in column):
        return ""
    return "The CIF declares hydrogen (_atom_site_attached_hydrogens) that has no sites of its own."


def _build_in_declared_setting(
    block: Block,
    declared: Declaration,
    sites: Sequence[_Site],
    lattice: np.ndarray,
    angles: Sequence[float],
    formula: FormulaSum | None,
) -> CifCrystal:
    """Builds the crystal in the only setting of the declared group that the file allows.

    Raises:
        CrystalError: no setting is possible, or several that give different crystals.
    """
    possible = [
        setting
        for setting in settings(declared, angles[0], angles[2])
        if setting.operations.fit(lattice)
    ]
    if not possible:
        raise CrystalError(
            f"The space group {declared} of the CIF does not fit its cell: its operations do not "
            "preserve the lengths and angles. Correct one of them."
        )
    built: list[CifCrystal] = []
    problems: list[CrystalError] = []
    for setting in possible:
        try:
            built.append(_build(sites, setting.operations, lattice, formula, block))
        except CrystalError as error:
            problems.append(error)
    if not built:
        raise problems[0]
    agreeing = _best_matches(built, formula, _declared_units(block))
    if all(_same_crystal(agreeing[0].crystal, other.crystal) for other in agreeing[1:]):
        return agreeing[0]
    names = " or ".join(setting.name for setting in possible)
    raise CrystalError(
        f"The space group {declared} of the CIF can mean {names}, and the atoms do not decide. Add "
        "_space_group_IT_coordinate_system_code, or list the symmetry operations."
    )


def _best_matches(
    built: list[CifCrystal], formula: FormulaSum | None, written: float | None
) -> list[CifCrystal]:
    """The crystals that best match the formula and the number of formula units in the cell."""
    if formula is None or len(built) == 1:
        return built
    for compared in (formula, formula.without_hydrogen()):  # hydrogen sites are often missing
        units = {
            place: count
            for place, one in enumerate(built)
            if (count := compared.formula_units(_counts(one.crystal, compared))) is not None
        }
        if units:
            fitting = [
                place
                for place, count in units.items()
                if written is not None and math.isclose(count, written, rel_tol=0.01)
            ]
            return [built[place] for place in fitting or units]
    return built


def _counts(crystal: Crystal, formula: FormulaSum) -> dict[str, int]:
    numbers, counts = np.unique(crystal.atomic_numbers, return_counts=True)
    symbols = [elements.symbol(int(number)) for number in numbers]
    return {
        symbol: int(count)
        for symbol, count in zip(symbols, counts, strict=True)
        if symbol != "H" or formula.has("H")
    }


def _same_crystal(first: Crystal, second: Crystal) -> bool:
    """Whether two crystals with the same cell have the same interatomic distances by element.

    The cutoff is such that each atom has about a hundred neighbours at any density.
    """
    if first.num_atoms != second.num_atoms:
        return False
    cutoff = min(max(5.0, 3.0 * (first.volume / first.num_atoms) ** (1 / 3)), 30.0)
    spectra = []
    for crystal in (first, second):
        i, j, d = NeighborList(cutoff=cutoff, full_list=True).compute(
            crystal.positions, crystal.lattice, periodic=True, quantities="ijd"
        )
        z = crystal.atomic_numbers
        order = np.lexsort((d, z[j], z[i]))
        spectra.append((z[i][order], z[j][order], d[order]))
    (z_i, z_j, d), (other_i, other_j, other_d) = spectra
    return (
        len(d) == len(other_d)
        and np.array_equal(z_i, other_i)
        and np.array_equal(z_j, other_j)
        and np.allclose(d, other_d, atol=1e-3)
    )


def _compare_with_symbol(
    crystal: Crystal,
    operations: Operations,
    declared: Declaration,
    lattice: np.ndarray,
    angles: Sequence[float],
) -> None:
    """Checks listed operations against a declared group that has more of them.

    They are accepted if the declared group is unknown; if it is a symmetry of the crystal, as in
    files that list all atoms of the cell under its symbol; or if the operations are those of the
    group in a different cell, as in files with a primitive cell under the conventional symbol.

    Raises:
        CrystalError: the list of operations is incomplete.
    """
    try:
        possible = settings(declared, angles[0], angles[2])
    except CrystalError:
        return
    if any(len(setting.operations) <= len(operations) for setting in possible):
        return
    if not any(setting.operations.fit(lattice) for setting in possible):
        kinds = operations.rotation_types()
        if any(setting.operations.rotation_types() == kinds for setting in possible):
            return
    if not any(_is_symmetry(setting.operations, crystal) for setting in possible):
        raise CrystalError(
            f"The CIF declares the space group {declared} but lists {len(operations)} operations "
            "of a different one, and the atoms do not have the declared symmetry. Correct it."
        )


def _is_symmetry(operations: Operations, crystal: Crystal, tolerance: float = 0.3) -> bool:
    """Whether operations map the crystal onto itself, within a tolerance in angstrom."""
    fractions = crystal.fractional
    probes = fractions[: max(1, 5_000_000 // (len(operations) * len(fractions)))]
    species = crystal.atomic_numbers
    for rotation, translation in zip(operations.rotations, operations.translations, strict=True):
        steps = (probes @ rotation.T + translation)[:, None] - fractions[None]
        steps -= np.round(steps)
        near = np.linalg.norm(steps @ crystal.lattice, axis=2) < tolerance
        near &= species[: len(probes), None] == species[None]
        if not near.any(axis=1).all():
            return False
    return True
