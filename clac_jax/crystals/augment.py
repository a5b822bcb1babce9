"""Random views of a crystal: displaced atoms, strained cell."""

from __future__ import annotations

import numpy as np
from vesin import NeighborList

from clac_jax.crystals.crystal import Crystal

# Largest displacement as a fraction of the smallest distance. Two atoms can approach each other by
# twice that, so every distance stays at least half of the smallest one.
MAX_DISPLACEMENT = 0.25


def smallest_distance(crystal: Crystal, own_images: bool = True) -> float:
    """The smallest distance between two atoms of the crystal, angstrom.

    Args:
        crystal: any crystal; without `own_images`, one with at least two atoms.
        own_images: whether to include the distance between an atom and its periodic images.
    """
    cutoff = 3.0  # angstrom; sufficient for nearly all crystals
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
    """View 1: displaces every atom at random.

    Args:
        crystal: any crystal; one with a single atom is returned unchanged.
        rng: source of randomness.
        law: "bounded" draws the displacements uniformly from a ball of radius d / 4, where d is the
            smallest distance in the crystal, so that no distance falls below d / 2. "legacy", the
            law of the PyTorch release, draws each Cartesian component from uniform(-d / 2, d / 2),
            with d not including periodic images of the same atom; most crystals then have distances
            below 1 angstrom.

    Raises:
        ValueError: the law is unknown.
    """
    if law not in ("bounded", "legacy"):
        raise ValueError(f"Unknown perturbation law {law!r}. Use bounded or legacy.")
    if crystal.num_atoms < 2:
        return crystal
    distance = smallest_distance(crystal, own_images=law != "legacy")
    if law == "legacy":
        shift = rng.uniform(-0.5 * distance, 0.5 * distance, (crystal.num_atoms, 3))
        # This law produces overlapping atoms, so the result is not checked.
        return _unchecked(crystal, crystal.lattice, crystal.positions + shift)
    direction = rng.standard_normal((crystal.num_atoms, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    radius = MAX_DISPLACEMENT * distance * rng.uniform(size=(crystal.num_atoms, 1)) ** (1 / 3)
    return _unchecked(crystal, crystal.lattice, crystal.positions + radius * direction)


def strain(
    crystal: Crystal,
    rng: np.random.Generator,
    max_strain: float = 0.05,
    max_compression: float = 0.0,
    law: str = "axial",
) -> Crystal:
    """View 2: deforms the cell at random; fractional coordinates are unchanged.

    Args:
        crystal: any crystal.
        rng: source of randomness.
        max_strain: largest tensile or shear strain (0.05 is 5 %).
        max_compression: largest compressive strain, less than 1; not used by "shear".
        law: "axial", the law of the PyTorch release, scales the Cartesian axes by independent
            factors from uniform(1 - max_compression, 1 + max_strain); "isotropic" scales all axes
            by one such factor; "shear" applies the identity plus a symmetric strain tensor with
            zero diagonal, whose three entries are drawn from uniform(-max_strain / 2,
            max_strain / 2), so that max_strain bounds the change of angle between two axes, radian.

    Raises:
        ValueError: the law is unknown.
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
        raise ValueError(f"Unknown strain law {law!r}. Use axial, isotropic or shear.")
    return _unchecked(crystal, crystal.lattice @ deformation, crystal.positions @ deformation)


def _unchecked(crystal: Crystal, lattice: np.ndarray, positions: np.ndarray) -> Crystal:
    """A crystal without validation, which was done for the original."""
    view = object.__new__(Crystal)
    object.__setattr__(view, "lattice", lattice)
    object.__setattr__(view, "atomic_numbers", crystal.atomic_numbers)
    object.__setattr__(view, "positions", positions)
    return view
