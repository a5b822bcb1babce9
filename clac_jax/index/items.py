"""The items of an index: one row of facts per crystal, as stored in `items.parquet`."""

from __future__ import annotations

import keyword
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gemmi
import numpy as np
import pyarrow as pa

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.formulas import conventional, counts_of
from clac_jax.crystals.found_symmetry import symmetry_if_any
from clac_jax.index.layout import BuildError
from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEMS

_LAST_SPACE_GROUP = (2, 15, 74, 142, 167, 194, 230)  # of each crystal system
_DALTON_PER_CUBIC_ANGSTROM = 1.66053906892  # in g/cm^3

FACTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("formula", pa.string(), nullable=False),
        pa.field("elements", pa.list_(pa.string()), nullable=False),
        pa.field("n_atoms", pa.int32(), nullable=False),
        pa.field("n_elements", pa.int32(), nullable=False),
        pa.field("volume_per_atom", pa.float64(), nullable=False),
        pa.field("density", pa.float64(), nullable=False),
        pa.field("crystal_system", pa.string()),
        pa.field("space_group", pa.int16()),
    ]
)
"""Columns computed from every crystal: angstrom^3, g/cm^3, and the number of the space group (null
if spglib finds none)."""

CONTENT = pa.schema(
    [
        pa.field("text", pa.string()),
        pa.field("lattice", pa.list_(pa.float64()), nullable=False),
        pa.field("atomic_numbers", pa.list_(pa.int16()), nullable=False),
        pa.field("frac_coords", pa.list_(pa.float64()), nullable=False),
    ]
)
"""Columns after those of the properties: the text, and the structure (rows of the cell in angstrom,
flattened; fractional coordinates, flattened)."""

COMPUTED = frozenset((*FACTS.names, *CONTENT.names))


@dataclass(frozen=True)
class Item:
    """A crystal to be embedded.

    Attributes:
        id: its name, unique in the index.
        crystal: the crystal.
        text: its text; "" if it has none.
        properties: name as in the data -> value.
    """

    id: str
    crystal: Crystal
    text: str = ""
    properties: Mapping[str, float] = field(default_factory=dict)


def table_of(items: Sequence[Item]) -> pa.Table:
    """The rows of `items.parquet`, with one column per property of these items."""
    rows = [_row(item) for item in items]
    names = sorted({name for row in rows for name in row} - COMPUTED)
    schema = schema_of(names)
    return pa.table(
        [
            pa.array([row.get(column.name) for row in rows], column.type, from_pandas=False)
            for column in schema
        ],
        schema=schema,
    )


def schema_of(properties: Iterable[str]) -> pa.Schema:
    """The schema of items with the given property columns."""
    return pa.schema(
        [*FACTS, *(pa.field(name, pa.float64()) for name in sorted(properties)), *CONTENT]
    )


def column_of(name: str) -> str:
    """The column of a property: an identifier as Python reads it, so that filters can name it.

    >>> column_of("energy above hull"), column_of("E_form (eV)"), column_of("2d"), column_of("R²")
    ('energy_above_hull', 'E_form_eV', 'p_2d', 'R2')
    """
    # NFKC is the form to which Python brings the names in an expression.
    letters = (c if f"a{c}".isidentifier() else " " for c in unicodedata.normalize("NFKC", name))
    column = re.sub(r"\s+", "_", "".join(letters)).strip("_") or "property"
    return column if column.isidentifier() and not keyword.iskeyword(column) else f"p_{column}"


def property_names(names: Iterable[str]) -> dict[str, str]:
    """Column -> name, for the properties of an index; names that differ in spaces are one property.

    Raises:
        BuildError: different properties would share a column.
    """
    found: dict[str, str] = {}
    for name in sorted(set(names)):
        column = column_of(name)
        if column in COMPUTED:
            continue
        first = found.setdefault(column, name)
        if re.sub(r"[\s_]+", " ", first).strip() != re.sub(r"[\s_]+", " ", name).strip():
            raise _shared(column, first, name)
    return found


def names_in(items: Iterable[Item]) -> set[str]:
    """The names of the properties that are known for any of some items."""
    return {name for item in items for name, value in item.properties.items() if _is_known(value)}


def properties_of(item: Item) -> dict[str, float]:
    """The properties of an item by column.

    Those whose column is one of the computed ones ("density") are left out: they would be given by
    the data for some crystals and computed for others.

    Raises:
        BuildError: two would share a column.
    """
    known = {name for name, value in item.properties.items() if _is_known(value)}
    names: dict[str, str] = {}
    for name in sorted(known):
        column = column_of(name)
        if column not in COMPUTED and names.setdefault(column, name) != name:
            raise _shared(column, names[column], name)
    return {column: float(item.properties[name]) for column, name in names.items()}


def _shared(column: str, first: str, second: str) -> BuildError:
    return BuildError(
        f"The properties {first!r} and {second!r} would both be the column {column} of the index. "
        "Rename one in the data."
    )


def _is_known(value: float) -> bool:
    return math.isfinite(float(value))


def _row(item: Item) -> dict[str, Any]:
    crystal = item.crystal
    numbers = crystal.atomic_numbers.tolist()
    counts = counts_of(numbers)
    symbols = sorted(counts)
    mass = sum(gemmi.Element(z).weight for z in numbers)
    group = _space_group(crystal)
    system = None if group is None else CRYSTAL_SYSTEMS[np.searchsorted(_LAST_SPACE_GROUP, group)]
    return {
        **properties_of(item),
        "id": item.id,
        "formula": conventional(counts),
        "elements": symbols,
        "n_atoms": len(numbers),
        "n_elements": len(symbols),
        "volume_per_atom": crystal.volume / len(numbers),
        "density": mass * _DALTON_PER_CUBIC_ANGSTROM / crystal.volume,
        "crystal_system": system,
        "space_group": group,
        "text": item.text or None,
        "lattice": crystal.lattice.ravel().tolist(),
        "atomic_numbers": numbers,
        "frac_coords": crystal.fractional.ravel().tolist(),
    }


def _space_group(crystal: Crystal) -> int | None:
    """Number of the space group by spglib, with the tolerance of the labels; None if unknown."""
    data_set = symmetry_if_any(crystal.lattice, crystal.fractional, crystal.atomic_numbers)
    return None if data_set is None else int(data_set.number)
