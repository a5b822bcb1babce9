"""Dropout whose masks depend on the step, the place in the network and the example alone.

A mask drawn for a whole array changes with the batch that an example is in, its row, the device
and the padding. Here every element has a counter of its own, (example and view, element), encrypted
under the step's key: any layout of the same examples drops the same elements. Threefry is written
out in elementwise operations, so that XLA fuses it with what it masks; an element costs 16 bits.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp

from clac_jax.batch import Array

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = 0x1BD11BDA


def threefry(key: tuple[Array, Array], counter: tuple[Array, Array]) -> tuple[jax.Array, jax.Array]:
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
    """The randomness of one forward pass.

    Attributes:
        key: PRNG key of the step.
        example_ids: (rows,) uint32, different for every view of every example.
    """

    key: Array
    example_ids: Array

    def site(self, index: int) -> tuple[jax.Array, jax.Array]:
        """The cipher key of one place in the network."""
        words = jax.random.bits(jax.random.fold_in(self.key, index), (2,), jnp.uint32)
        return words[0], words[1]


def dropout(
    x: Array, rate: float, site: tuple[Array, Array], example: Array, element: Array, axis: int
) -> jax.Array:
    """Zeroes elements with probability ``rate`` and scales the others by 1 / (1 - rate).

    Args:
        x: the array.
        rate: in [0, 1), exact to 2**-16.
        site: cipher key of this place in the network.
        example: uint32, id of the example; broadcasts against x with size 1 along ``axis``.
        element: uint32, number of the element within the example; broadcasts likewise, and leaves
            no two elements of one example and index along ``axis`` the same.
        axis: along which one counter serves several elements.

    Returns:
        Like x.
    """
    if rate == 0.0:
        return jnp.asarray(x)
    size = x.shape[axis]
    quarter = -(-size // 4)
    lanes_shape = [1] * x.ndim
    lanes_shape[axis] = quarter
    lanes = jnp.arange(quarter, dtype=jnp.uint32).reshape(lanes_shape)
    words = threefry(site, (example, element * jnp.uint32(quarter) + lanes))
    bits = jnp.concatenate([half for w in words for half in (w & 0xFFFF, w >> 16)], axis=axis)
    bits = jax.lax.slice_in_dim(bits, 0, size, axis=axis)
    keep = bits >= jnp.uint32(round(rate * 2**16))
    return jnp.where(keep, x / (1.0 - rate), 0)
