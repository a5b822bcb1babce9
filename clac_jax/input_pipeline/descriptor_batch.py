"""The descriptors of packed crystals."""

from __future__ import annotations

import flax.struct
import numpy as np

from clac_jax.crystals.descriptors import CELL_NUMBERS, SITE_NUMBERS
from clac_jax.typing import Array


@flax.struct.dataclass
class DescriptorBatch:
    """The descriptors of packed crystals; see `clac_jax.crystals.descriptors`.

    Attributes:
        space_group: (rows,) int32; 0 at padding.
        cell: (rows, CELL_NUMBERS) float32; 1 at padding.
        sites: (N, SITE_NUMBERS) float32; 1 at padding.
    """

    space_group: Array
    cell: Array
    sites: Array


def no_descriptors(rows: int, nodes: int) -> DescriptorBatch:
    """The slots of a batch before descriptors are written to them."""
    return DescriptorBatch(
        space_group=np.zeros(rows, np.int32),
        cell=np.ones((rows, CELL_NUMBERS), np.float32),
        sites=np.ones((nodes, SITE_NUMBERS), np.float32),
    )
