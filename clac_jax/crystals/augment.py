"""Random views of a crystal: displaced atoms and a strained cell."""

from __future__ import annotations

import numpy as np
from vesin import NeighborList

from clac_jax.crystals.crystal import Crystal

# A displacement of at most this share of the smallest distance leaves every contact at least half:
# two atoms can approach each other by twice the displacement.
BOUNDED_SHARE = 0.25


def smallest_distance(crystal: Crystal, own_images: bool = True) -> float:
    """The smallest distance between two atoms of the crystal, angstrom.

    Args:
        crystal: with at least two atoms, or any if `own_images`.
        own_images: whether the distance of an atom to its own periodic images counts.
    """
    cutoff = 3.0  # one search is enough for nearly all crystals
    while True:
        i, j, distances = NeighborList(cutoff=cutoff, full_list=False).compute(
            crystal.positions, crystal.lattice, periodic=True, quantities="ijd"
        )
        if not own_images:
            distances = distances[i != j]
        if len(distances):
            return float(distances.min())
        cutoff *= 2


def perturb(crystal: Crystal, rng: np.random.Generator, law: str = "bounded") -> Crystal:
    """View 1: every atom displaced at random.

    Args:
        crystal: any; one with fewer than two atoms comes back unchanged.
        rng: draws the displacements.
        law: "bounded" displaces each atom by a vector uniform in a ball of radius d / 4, d the
            smallest distance in the crystal, so no contact falls under half of d. "legacy" is the
            reference's: uniform(-d / 2, d / 2) along each axis, d without own images, which leaves
            most crystals with contacts under 1 angstrom.

    Raises:
        ValueError: for another law.
    """
    if law not in ("bounded", "legacy"):
        raise ValueError(f"There is no perturbation law {law!r}. Use bounded or legacy.")
    if crystal.num_atoms < 2:
        return crystal
    distance = smallest_distance(crystal, own_images=law != "legacy")
    if law == "legacy":
        shift = rng.uniform(-0.5 * distance, 0.5 * distance, (crystal.num_atoms, 3))
        # Overlaps are this law's nature, so the result is not checked.
        return _unchecked(crystal, crystal.lattice, crystal.positions + shift)
    direction = rng.standard_normal((crystal.num_atoms, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = BOUNDED_SHARE * distance * rng.uniform(size=(crystal.num_atoms, 1)) ** (1 / 3)
    return _unchecked(crystal, crystal.lattice, crystal.positions + radius * direction)


def strain(
    crystal: Crystal,
    rng: np.random.Generator,
    max_strain: float = 0.05,
    max_compression: float = 0.0,
    law: str = "axial",
) -> Crystal:
    """View 2: the cell deformed at random, the atoms along with it: fractional coordinates stay.

    Args:
        crystal: any.
        rng: draws the deformation.
        max_strain: largest stretch, or shear.
        max_compression: largest compression, less than 1; a shear has none.
        law: "axial", the reference's, scales the Cartesian axes by independent factors
            uniform(1 - max_compression, 1 + max_strain); "isotropic" all axes by one such factor;
            "shear" applies the identity plus a symmetric strain without diagonal, its three entries
            uniform(-max_strain / 2, max_strain / 2), so that max_strain bounds the angle by which
            two axes turn to each other, in radian.

    Raises:
        ValueError: for another law.
    """
    low, high = 1.0 - max_compression, 1.0 + max_strain
    if law == "axial":
        deformation = np.diag(rng.uniform(low, high, 3))
    elif law == "isotropic":
        deformation = np.eye(3) * rng.uniform(low, high)
    elif law == "shear":
        xy, yz, zx = rng.uniform(-max_strain / 2, max_strain / 2, 3)
        deformation = np.array([[1.0, xy, zx], [xy, 1.0, yz], [zx, yz, 1.0]])
    else:
        raise ValueError(f"There is no strain law {law!r}. Use axial, isotropic or shear.")
    return _unchecked(crystal, crystal.lattice @ deformation, crystal.positions @ deformation)


def _unchecked(crystal: Crystal, lattice: np.ndarray, positions: np.ndarray) -> Crystal:
    """A crystal whose checks would only repeat those of the one it was made from."""
    view = object.__new__(Crystal)
    object.__setattr__(view, "lattice", lattice)
    object.__setattr__(view, "atomic_numbers", crystal.atomic_numbers)
    object.__setattr__(view, "positions", positions)
    return view
