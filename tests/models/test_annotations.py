"""The axes in annotations of arrays are checked in every test (`conftest.py`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import TypeCheckError

from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ContrastiveHead, ProjectedPair, l2_normalize
from clac_jax.models.normalization import MaskedBatchNorm
from clac_jax.training.losses import clac_loss


def normalize(rows, members):
    return MaskedBatchNorm().init_with_output(jax.random.key(0), rows, members, train=True)[0]


@pytest.mark.parametrize(
    ("rows", "members"),
    [
        (((6, 4), float), ((1, 5), bool)),  # one row missing
        (((6, 4), float), ((6,), bool)),  # no axis of sets
        (((6, 4), float), ((1, 6), float)),  # not bool
        (((6, 4), int), ((1, 6), bool)),  # not floating point
    ],
)
@pytest.mark.parametrize("how", [lambda f: f, jax.jit], ids=["called", "traced"])
def test_arrays_that_do_not_fit_each_other_are_refused(rows, members, how):
    with pytest.raises(TypeCheckError, match=r"MaskedBatchNorm\.__call__"):
        how(normalize)(jnp.ones(*rows), jnp.ones(*members))


def test_a_mask_of_other_examples_is_refused_by_the_head():
    head = ContrastiveHead(4, logit_scale_init=1.0)
    views = jnp.ones((1, 6, 3))
    with pytest.raises(TypeCheckError, match="example_mask"):
        head.init(jax.random.key(0), views, views, np.ones(5, bool), train=False)


def test_a_raw_key_is_refused_where_typed_ones_are_used():
    pair = ProjectedPair(jnp.ones((1, 6, 4)), jnp.ones((1, 6, 4)), jnp.zeros(()))
    with pytest.raises(TypeCheckError, match="key"):
        clac_loss(ClacOutput(pair), np.ones(6, bool), key=jax.random.PRNGKey(0))


@pytest.mark.parametrize(
    "transform",
    [
        jax.jit,
        jax.grad,
        lambda f: jax.vmap(f, in_axes=0),
        lambda f: jax.pmap(f, axis_name="data"),
        lambda f: jax.shard_map(
            f,
            mesh=Mesh(np.array(jax.devices()[:1]), ("data",)),
            in_specs=PartitionSpec(),
            out_specs=PartitionSpec(),
        ),
    ],
    ids=["jit", "grad", "vmap", "pmap", "shard_map"],
)
def test_traced_arrays_pass(transform):
    jax.block_until_ready(transform(lambda rows: l2_normalize(rows).sum())(jnp.ones((1, 6, 4))))
