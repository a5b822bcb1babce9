"""Crystals for the tests: known ones, and random ones without overlapping atoms."""

import numpy as np

from clac_jax.crystals.augment import smallest_distance
from clac_jax.crystals.crystal import Crystal

NACL = """data_NaCl
_cell_length_a 5.6402(3)
_cell_length_b 5.6402
_cell_length_c 5.6402
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'F m -3 m'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
Na1 Na1+ 0 0 0
Cl1 Cl1- 0.5 0.5 0.5
"""


def rock_salt(a=5.64):
    """The conventional cell of NaCl, 8 atoms."""
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    fractional = np.concatenate([corners, corners + [0.5, 0, 0]])
    return Crystal(a * np.eye(3), [11] * 4 + [17] * 4, a * fractional)


def random_crystal(rng, max_atoms=8):
    """A random crystal; cells range from needles to cells smaller than the cutoff."""
    while True:
        kind = rng.integers(4)
        lattice = rng.normal(size=(3, 3)) * rng.uniform(2, 8)
        if kind == 0:
            lattice = np.diag(rng.uniform(2.0, 12.0, 3))
        elif kind == 1:  # far from reduced: a skewed basis of the same lattice
            lattice = np.diag(rng.uniform(3.0, 7.0, 3))
            lattice[1] += rng.integers(-3, 4) * lattice[0]
            lattice[2] += rng.integers(-3, 4) * lattice[1] + rng.integers(-3, 4) * lattice[0]
        num_atoms = int(rng.integers(1, max_atoms + 1))
        volume = abs(np.linalg.det(lattice))
        if volume / num_atoms < 8 or np.linalg.norm(lattice, axis=1).min() < 1.5:
            continue
        # Some atoms are outside the cell.
        positions = rng.uniform(-0.7, 1.7, (num_atoms, 3)) @ lattice
        try:
            crystal = Crystal(lattice, rng.integers(1, 101, num_atoms), positions)
        except ValueError:
            continue
        if smallest_distance(crystal) > 0.7:
            return crystal
