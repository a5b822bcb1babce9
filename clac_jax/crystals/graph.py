"""Crystal graphs: all pairs of atoms within a cutoff, including periodic images."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from vesin import NeighborList

from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.descriptors import Descriptors, describe


@dataclass(frozen=True)
class CrystalGraph:
    """The graph of one crystal; messages are passed from senders to receivers.

    Attributes:
        atomic_numbers: (N,) int32.
        senders: (E,) int32, index i of the pair.
        receivers: (E,) int32, index j of the pair.
        edge_vectors: (E, 3) float32, r_j + S @ cell - r_i, angstrom.
        lattice: (3, 3) float32, angstrom; the rows are the cell vectors.
        descriptors: the crystal's descriptors; None if no encoder needs it.
    """

    atomic_numbers: np.ndarray
    senders: np.ndarray
    receivers: np.ndarray
    edge_vectors: np.ndarray
    lattice: np.ndarray
    descriptors: Descriptors | None = None

    def without_elements(self) -> CrystalGraph:
        """The graph of the same structure with unknown elements: all atomic numbers are 0."""
        descriptors = None if self.descriptors is None else self.descriptors.without_elements()
        return dataclasses.replace(
            self, atomic_numbers=np.zeros_like(self.atomic_numbers), descriptors=descriptors
        )


def neighbour_list(
    crystal: Crystal, cutoff: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs (i, j, S) with |r_j + S @ cell - r_i| <= cutoff, except i = j with S = 0.

    Args:
        crystal: any crystal; its cell may be skewed or smaller than the cutoff.
        cutoff: cutoff radius, angstrom.

    Returns:
        i (E,) int32, j (E,) int32, S (E, 3) int32 in units of the cell vectors, and the edge
        vectors (E, 3) float64, angstrom; sorted by (j, i, S), so equal crystals have equal graphs.
    """
    i, j, shifts, vectors = NeighborList(cutoff=cutoff, full_list=True).compute(
        crystal.positions, crystal.lattice, periodic=True, quantities="ijSD"
    )
    order = np.lexsort((shifts[:, 2], shifts[:, 1], shifts[:, 0], i, j))
    return (
        i[order].astype(np.int32),
        j[order].astype(np.int32),
        shifts[order].astype(np.int32),
        vectors[order],
    )


def build_graph(
    crystal: Crystal, cutoff: float, max_neighbours: int = 0, described: Crystal | None = None
) -> CrystalGraph:
    """The radius graph of a crystal, or its k-nearest variant.

    Args:
        crystal: any crystal.
        cutoff: cutoff radius, angstrom; without pairs inside it the graph has no edges.
        max_neighbours: number of nearest incoming edges kept per atom, with ties in the order of
            `neighbour_list`; 0 keeps all edges.
        described: the crystal whose descriptors the graph gets: this one, or the one that it is a
            distorted view of, since noise has no symmetry. None: no descriptors.
    """
    i, j, _, vectors = neighbour_list(crystal, cutoff)
    if max_neighbours and len(i):
        # Ties keep the order of the neighbour list; rounding makes symmetric distances equal.
        distances = np.round(np.linalg.norm(vectors, axis=1), 6)
        order = np.lexsort((np.arange(len(j)), distances, j))
        starts = np.searchsorted(j[order], np.arange(crystal.num_atoms))
        rank = np.arange(len(j)) - starts[j[order]]
        kept = np.sort(order[rank < max_neighbours])
        i, j, vectors = i[kept], j[kept], vectors[kept]
    return CrystalGraph(
        atomic_numbers=crystal.atomic_numbers,
        senders=i,
        receivers=j,
        edge_vectors=vectors.astype(np.float32),
        lattice=crystal.lattice.astype(np.float32),
        descriptors=None if described is None else describe(described),
    )
