"""Coordination shapes, connections of polyhedra, and dimensionality of bonded networks."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache

import numpy as np

Bond = tuple[int, tuple[int, int, int]]
"""The bonded atom: index and lattice translation of its image."""

# Largest root mean square difference of the sorted angles, degrees, for a regular and a distorted
# shape. Polyhedra with many corners resemble each other, so distorted ones are not named.
_AS_IT_IS = 6.0
_DISTORTED = 13.0


@cache
def _ideal_angles() -> dict[int, dict[str, np.ndarray]]:
    """Number of neighbors -> name of the shape -> its sorted angles."""
    z = np.array([0.0, 0.0, 1.0])

    def ring(n: int, start: float = 0.0, height: float = 0.0) -> list[np.ndarray]:
        turns = start + 2 * np.pi * np.arange(n) / n
        return [np.array([np.cos(t), np.sin(t), height]) for t in turns]

    cube = [np.array(c, float) for c in itertools.product((-1, 1), repeat=3)]
    fcc = [
        np.array(c, float) for c in itertools.product((-1, 0, 1), repeat=3) if np.abs(c).sum() == 2
    ]
    golden = (1 + 5**0.5) / 2
    icosahedron = [
        np.roll(np.array([0.0, a, b]), k)
        for a in (-1, 1)
        for b in (-golden, golden)
        for k in range(3)
    ]
    prism = 3**0.5 / 2  # half the height of a trigonal prism with equal edges, circumradius 1
    cap = [1.5 * v for v in ring(3, np.pi / 3)]
    flat = (2 / 3) ** 0.5 * 3**0.5  # height between close-packed layers over the neighbor distance
    hcp = (
        ring(6)
        + [v * (1 / 3**0.5) + z * flat / 3**0.5 for v in ring(3, np.pi / 6)]
        + [v * (1 / 3**0.5) - z * flat / 3**0.5 for v in ring(3, np.pi / 6)]
    )
    shapes: dict[str, list[np.ndarray]] = {
        "linear": [z, -z],
        "tetrahedral": [c for c in cube if np.prod(c) > 0],
        "square planar": ring(4),
        "seesaw": [z, -z, *ring(3)[:2]],
        "trigonal bipyramidal": [z, -z, *ring(3)],
        "square pyramidal": [z, *ring(4, height=-0.15)],
        "octahedral": [z, -z, *ring(4)],
        "trigonal prismatic": ring(3, height=prism) + ring(3, height=-prism),
        "hexagonal planar": ring(6),
        "pentagonal bipyramidal": [z, -z, *ring(5)],
        "cubic": cube,
        "square antiprismatic": ring(4, height=0.6) + ring(4, np.pi / 4, height=-0.6),
        "hexagonal bipyramidal": [z, -z, *ring(6)],
        "tricapped trigonal prismatic": ring(3, height=prism) + ring(3, height=-prism) + cap,
        "cuboctahedral": fcc,
        "anticuboctahedral": hcp,
        "icosahedral": icosahedron,
        "hexagonal prismatic": ring(6, height=0.5) + ring(6, height=-0.5),
    }
    table: dict[int, dict[str, np.ndarray]] = defaultdict(dict)
    for name, vectors in shapes.items():
        table[len(vectors)][name] = _sorted_angles(np.array(vectors))
    return dict(table)


def _sorted_angles(vectors: np.ndarray) -> np.ndarray:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    upper = np.triu_indices(len(unit), k=1)
    return np.sort(np.degrees(np.arccos(np.clip((unit @ unit.T)[upper], -1, 1))))


def shape(vectors: np.ndarray) -> str | None:
    """The name of the arrangement of the neighbors; None if it resembles no simple shape.

    Args:
        vectors: (n, 3) from the central atom to its neighbors, any length unit.

    Returns:
        "octahedral", "distorted tetrahedral", ...
    """
    angles = _sorted_angles(vectors) if len(vectors) > 1 else np.zeros(0)
    if len(vectors) == 2:
        return "linear" if angles[0] > 165 else "bent"
    if len(vectors) == 3:
        return _shape_of_three(angles)
    ranked = sorted(
        (float(np.sqrt(np.mean((angles - ideal) ** 2))), name)
        for name, ideal in _ideal_angles().get(len(vectors), {}).items()
    )
    if not ranked:
        return None
    error, name = ranked[0]
    if error < _AS_IT_IS:
        return name
    if error > _DISTORTED or not 4 <= len(vectors) <= 6 or name == "seesaw":
        return None  # a distorted seesaw might be called a distorted tetrahedron or square as well
    return f"distorted {name}"


def _shape_of_three(angles: np.ndarray) -> str | None:
    if angles[2] > 160:
        return "T-shaped" if angles[0] > 70 else None
    if angles.sum() > 353:
        return "trigonal planar" if angles[2] < 140 else None
    return "trigonal pyramidal" if angles[2] < 130 and angles[0] > 50 else None


def dimensionality(bonds: Sequence[Sequence[Bond]]) -> tuple[int, ...]:
    """The dimensionality of each bonded network of the crystal (3 framework ... 0 molecule).

    Args:
        bonds: bonds of every atom of the cell.
    """
    both_ways: list[list[tuple[int, np.ndarray]]] = [[] for _ in bonds]
    for atom, of_atom in enumerate(bonds):
        for other, image in of_atom:
            both_ways[atom].append((other, np.array(image)))
            both_ways[other].append((atom, -np.array(image)))
    place: dict[int, np.ndarray] = {}
    found = []
    for start in range(len(bonds)):
        if start in place:
            continue
        place[start] = np.zeros(3, int)
        queue, cycles = [start], [np.zeros(3, int)]
        while queue:
            atom = queue.pop()
            for other, image in both_ways[atom]:
                at = place[atom] + image
                if other not in place:
                    place[other] = at
                    queue.append(other)
                elif np.any(at != place[other]):
                    cycles.append(at - place[other])
        found.append(int(np.linalg.matrix_rank(np.unique(np.array(cycles), axis=0))))
    return tuple(sorted(found))


def sharing(
    centers: Sequence[int], bonds: Sequence[Sequence[Bond]], ligands: frozenset[int]
) -> tuple[str, ...]:
    """Connections of coordination polyhedra: "corner", "edge", "face"; empty if there are none.

    Args:
        centers: the central atoms of all polyhedra in the cell.
        bonds: bonds of every atom of the cell.
        ligands: the atoms at the corners.
    """
    around: dict[int, list[tuple[int, np.ndarray]]] = defaultdict(list)
    for center in centers:
        for atom, image in bonds[center]:
            if atom in ligands:
                around[atom].append((center, np.array(image)))
    kinds = set()
    for center in centers:
        common: Counter[tuple[int, ...]] = Counter()
        for atom, image in bonds[center]:
            for other, other_image in around.get(atom, ()):
                key = (other, *(np.array(image) - other_image).tolist())
                if key != (center, 0, 0, 0):
                    common[key] += 1
        kinds |= {{1: "corner", 2: "edge"}.get(n, "face") for n in common.values()}
    return tuple(kind for kind in ("corner", "edge", "face") if kind in kinds)
