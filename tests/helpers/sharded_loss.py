"""Compares loss, gradients and statistics of one batch on one device and on four; prints JSON.

Run it in a separate process: the number of CPU devices is fixed when JAX starts.
"""

from __future__ import annotations

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from clac_jax.models.clac import ClacOutput
from clac_jax.models.heads import ContrastiveHead
from clac_jax.training.losses import LossOptions, clac_loss

NUM_DEVICES = 4
AXIS = "data"


def loss_and_aux(params, stats, features, mask, axis_name):
    head = ContrastiveHead(6, 1 / 0.07)
    left, right = features
    sides = {"cross": (left, right), "visual": (left[:1], left[1:])}
    pairs, after = {}, {}
    for name, (a, b) in sides.items():
        variables = {"params": params[name], "batch_stats": stats}
        pairs[name], after[name] = head.apply(
            variables, a, b, mask, train=True, axis_name=axis_name, mutable=["batch_stats"]
        )
    output = ClacOutput(
        **pairs,
        lm_loss_sum=jnp.sum(jnp.where(mask, left[..., 0] ** 2, 0), axis=1),
        lm_num_tokens=jnp.sum(jnp.broadcast_to(mask, (2, mask.shape[0])), axis=1),
        structure_loss=jnp.sum(right[0] ** 2, axis=-1),
    )
    options = LossOptions(lm_weight=0.1, structure_weight=0.1)
    loss, terms = clac_loss(output, mask, options, axis_name=axis_name)
    return loss, (terms, after)


def step(params, stats, features, mask, axis_name=None):
    grads, (terms, after) = jax.grad(loss_and_aux, argnums=(0, 2), has_aux=True)(
        params, stats, features, mask, axis_name
    )
    param_grads, feature_grads = grads
    if axis_name is not None:
        param_grads = jax.lax.psum(param_grads, axis_name)
    return param_grads, feature_grads, terms, after


def split(x, axis):
    """Splits an axis over the devices; the device axis comes first."""
    return np.stack(np.split(np.asarray(x), NUM_DEVICES, axis=axis))


def join(x, axis):
    return np.concatenate(list(np.asarray(x)), axis=axis)


def largest_error(ours, theirs):
    errors = jax.tree.map(
        lambda a, b: float(np.max(np.abs(np.asarray(a) - np.asarray(b)))), ours, theirs
    )
    return max(jax.tree.leaves(errors))


def main(how: str) -> None:
    rng = np.random.default_rng(0)
    features = tuple(rng.normal(size=(2, 8, 5)).astype(np.float32) for _ in range(2))
    mask = np.array([1, 1, 1, 1, 1, 1, 1, 0], bool)
    keys = jax.random.split(jax.random.key(0), 2)
    head = ContrastiveHead(6, 1 / 0.07)
    variables = [head.init(k, *features, mask, train=True) for k in keys]
    params = {n: v["params"] for n, v in zip(("cross", "visual"), variables, strict=True)}
    stats = variables[0]["batch_stats"]
    single = jax.jit(step)(params, stats, features, mask)

    sharded = functools.partial(step, axis_name=AXIS)
    if how == "pmap":
        parts = tuple(split(x, 1) for x in features)
        run = jax.pmap(sharded, axis_name=AXIS, in_axes=(None, None, 0, 0))
        param_grads, feature_grads, terms, after = run(params, stats, parts, split(mask, 0))
        feature_grads = tuple(join(x, 1) for x in feature_grads)
        devices = [
            jax.tree.map(lambda x, k=k: np.asarray(x)[k], (param_grads, terms, after))
            for k in range(NUM_DEVICES)
        ]
    else:
        mesh = Mesh(np.array(jax.devices()), (AXIS,))
        data, same = PartitionSpec(None, AXIS), PartitionSpec()
        run = jax.shard_map(
            sharded,
            mesh=mesh,
            in_specs=(same, same, data, PartitionSpec(AXIS)),
            out_specs=(same, data, same, same),
            check_vma=False,
        )
        param_grads, feature_grads, terms, after = jax.jit(run)(params, stats, features, mask)
        devices = [(param_grads, terms, after)]
    errors = {
        "features": largest_error(feature_grads, single[1]),
        "params": max(largest_error(d[0], single[0]) for d in devices),
        "terms": max(largest_error(d[1], single[2]) for d in devices),
        "statistics": max(largest_error(d[2], single[3]) for d in devices),
    }
    scale = {"grad": max(float(np.abs(x).max()) for x in jax.tree.leaves(single[0]))}
    print(json.dumps({"errors": errors, "scale": scale, "devices": jax.device_count()}))


if __name__ == "__main__":
    main(sys.argv[1])
