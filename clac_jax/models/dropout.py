"""Dropout whose masks depend only on the step, the position in the network and the example.

A mask drawn for an entire array changes with an example's batch, its row, the device and the
padding. Here every element has its own counter, (example and view, element), encrypted under the
step's key, so any layout of the same examples drops the same elements. Threefry is written out in
elementwise operations, so that XLA fuses it with the masked operation; an element costs 16 bits.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Key, UInt32

Word = UInt32[jax.Array, "..."]
CipherKey = tuple[UInt32[jax.Array, ""], UInt32[jax.Array, ""]]

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: CipherKey, counter: tuple[Word, Word]) -> tuple[Word, Word]:
    """Threefry-2x32 with 20 rounds (Salmon et al., SC'11), elementwise over uint32 arrays."""
    keys = (key[0], key[1], key[0] ^ key[1] ^ jnp.uint32(_PARITY))
    x0, x1 = counter[0] + keys[0], counter[1] + keys[1]
    for block in range(5):
        for rotation in _ROTATIONS[block % 2]:
            x0 = x0 + x1
            x1 = ((x1 << rotation) | (x1 >> (32 - rotation))) ^ x0
        x0 = x0 + keys[(block + 1) % 3]
        x1 = x1 + keys[(block + 2) % 3] + jnp.uint32(block + 1)
    return x0, x1


@flax.struct.dataclass
class DropoutStream:
    """The random stream of one forward pass.

    Attributes:
        key: PRNG key of the step.
        example_ids: (rows,) uint32, unique for every view of every example.
    """

    key: Key[jax.Array, ""]
    example_ids: UInt32[jax.Array, "rows"]

    def site(self, index: int) -> CipherKey:
        """The cipher key of one dropout site in the network."""
        words = jax.random.bits(jax.random.fold_in(self.key, index), (2,), jnp.uint32)
        return words[0], words[1]


def keep_mask(
    size: int,
    axis: int,
    rate: float,
    site: CipherKey,
    example: Word,
    element: Word,
) -> Bool[jax.Array, "..."]:
    """True where an element is kept, with probability ``1 - rate``.

    Args:
        size: length of the mask along ``axis``.
        axis: axis along which one counter serves several elements.
        rate: dropout rate in [0, 1), exact to 2**-16.
        site: cipher key of this site in the network.
        example: uint32, id of the example; size 1 along ``axis``.
        element: uint32, number of the element within the example; size 1 along ``axis``. No two
            elements of one example that share an index along ``axis`` may have the same number.

    Returns:
        bool, the broadcast shape of example and element, with ``size`` along ``axis``.
    """
    quarter = -(-size // 4)
    lanes_shape = [1] * max(example.ndim, element.ndim)
    lanes_shape[axis] = quarter
    lanes = jnp.arange(quarter, dtype=jnp.uint32).reshape(lanes_shape)
    words = threefry(site, (example, element * jnp.uint32(quarter) + lanes))
    threshold = jnp.uint32(round(rate * 2**16))
    halves = [half >= threshold for word in words for half in (word & 0xFFFF, word >> 16)]
    return jax.lax.slice_in_dim(jnp.concatenate(halves, axis=axis), 0, size, axis=axis)


def drop(
    x: Float[jax.Array, "*shape"], keep: Bool[jax.Array, "*shape"], rate: float
) -> Float[jax.Array, "*shape"]:
    """Zeroes the dropped elements and scales the rest by 1 / (1 - rate)."""
    return jnp.where(keep, x / (1.0 - rate), 0)
