"""Crystals for the tests: known ones, and random ones without overlapping atoms."""

import itertools

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


HEXAGONAL = np.array([[1, 0, 0], [-0.5, 3**0.5 / 2, 0], [0, 0, 1]])


def cubic(a, numbers, fractional):
    return Crystal.from_arrays(a * np.eye(3), numbers, fractional)


def hexagonal(a, c, numbers, fractional):
    return Crystal.from_arrays(HEXAGONAL * [[a], [a], [c]], numbers, fractional)


def perovskite():
    sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    return cubic(4.0, [56, 22, 8, 8, 8], sites)


def face_centred(basis):
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    return np.concatenate([np.add(corners, site) for site in basis])


def diamond():
    return cubic(3.567, [6] * 8, face_centred([[0, 0, 0], [0.25, 0.25, 0.25]]))


def zincblende():
    return cubic(5.409, [30] * 4 + [16] * 4, face_centred([[0, 0, 0], [0.25, 0.25, 0.25]]))


def wurtzite():
    """As dense as the zincblende above, with ideal tetrahedra."""
    a = 5.409 / 2**0.5
    sites = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]]
    return hexagonal(a, a * (8 / 3) ** 0.5, [30, 30, 16, 16], sites)


def magnesium():
    a = 3.2
    sites = [[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    return hexagonal(a, a * (8 / 3) ** 0.5, [12, 12], sites)


def graphite():
    sites = [[0, 0, 0.25], [0, 0, 0.75], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]
    return hexagonal(2.46, 6.7, [6] * 4, sites)


def rutile():
    u = 0.305
    sites = [[0, 0, 0], [0.5] * 3, [u, u, 0], [-u, -u, 0]]
    sites += [[0.5 + u, 0.5 - u, 0.5], [0.5 - u, 0.5 + u, 0.5]]
    return Crystal.from_arrays(np.diag([4.594, 4.594, 2.959]), [22, 22, 8, 8, 8, 8], sites)


def anatase():
    u = 0.208
    titanium = [[0, 0, 0], [0, 0.5, 0.25]]
    oxygen = [[0, 0, u], [0, 0, -u], [0, 0.5, 0.25 + u], [0, 0.5, 0.25 - u]]
    sites = np.concatenate([[*titanium, *oxygen], np.add([*titanium, *oxygen], 0.5)])
    lattice = np.diag([3.785, 3.785, 9.514])
    return Crystal.from_arrays(lattice, [22, 22, 8, 8, 8, 8] * 2, sites)


def quartz():
    u, (x, y, z) = 0.4697, (0.4133, 0.2672, 0.1188)
    silicon = [[u, 0, 1 / 3], [0, u, 2 / 3], [-u, -u, 0]]
    oxygen = [[x, y, z + 1 / 3], [-y, x - y, z + 2 / 3], [y - x, -x, z]]
    oxygen += [[y, x, 2 / 3 - z], [x - y, -y, 1 / 3 - z], [-x, y - x, -z]]
    return hexagonal(4.916, 5.405, [14] * 3 + [8] * 6, [*silicon, *oxygen])


def caged():
    """An atom in the middle of 20 others, the corners of a dodecahedron: all at one distance."""
    golden = (1 + 5**0.5) / 2
    corners = [list(signs) for signs in itertools.product((-1, 1), repeat=3)]
    for a, b in itertools.product((-1 / golden, 1 / golden), (-golden, golden)):
        corners += [[0, a, b], [a, b, 0], [b, 0, a]]
    return Crystal(20 * np.eye(3), [26] + [6] * 20, 3 / 3**0.5 * np.array([[0] * 3, *corners]))
