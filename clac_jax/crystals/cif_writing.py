"""Writing of crystals as CIF."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np

from clac_jax.crystals import elements
from clac_jax.crystals.crystal import Crystal

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.+-]+")


def write(crystal: Crystal, name: str = "crystal") -> str:
    """The text of a CIF with all atoms of the cell in P 1; `Crystal.from_cif` reads it back.

    The orientation of the cell in space is not part of a CIF, and its cells are right-handed: a
    left-handed one is written as -a, -b, -c. Coordinates have 8 decimals.

    Args:
        crystal: the crystal.
        name: name of the data block; characters that a block's name cannot have become "_".
    """
    lengths = np.linalg.norm(crystal.lattice, axis=1)
    a, b, c = crystal.lattice / lengths[:, None]
    cosines = np.clip([b @ c, a @ c, a @ b], -1.0, 1.0)
    angles = np.degrees(np.arccos(cosines))
    # The lengths and angles of -a, -b, -c are those of a, b, c.
    fractional = np.sign(np.linalg.det(crystal.lattice)) * crystal.fractional
    symbols = [elements.symbol(int(z)) for z in crystal.atomic_numbers]
    counts = Counter(symbols)
    formula = " ".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))
    lines = [
        f"data_{_NOT_IN_A_NAME.sub('_', name)[:70] or 'crystal'}",
        "_symmetry_space_group_name_H-M 'P 1'",
        "_symmetry_Int_Tables_number 1",
        *(f"_cell_length_{edge} {value:.8f}" for edge, value in zip("abc", lengths, strict=True)),
        *(
            f"_cell_angle_{angle} {value:.8f}"
            for angle, value in zip(("alpha", "beta", "gamma"), angles, strict=True)
        ),
        f"_cell_volume {crystal.volume:.6f}",
        f"_chemical_formula_sum '{formula}'",
        "loop_",
        "_symmetry_equiv_pos_as_xyz",
        "'x, y, z'",
        "loop_",
        "_atom_site_label",
        "_atom_site_type_symbol",
        "_atom_site_fract_x",
        "_atom_site_fract_y",
        "_atom_site_fract_z",
    ]
    number: Counter[str] = Counter()
    for symbol, (x, y, z) in zip(symbols, fractional, strict=True):
        number[symbol] += 1
        lines.append(f"{symbol}{number[symbol]} {symbol} {x:z.8f} {y:z.8f} {z:z.8f}")
    return "\n".join(lines) + "\n"
