"""Ways to sum the messages of edges at their atoms: scatter, sorted segments, dense rows.

    python -m benchmarks.edge_sums [--repeats=20] [--output=benchmarks/results/edge_sums.json]

CGCNN and ORB sum (E, F) messages at the receiving atom of each edge; ORB, and every backward pass,
also at the sending atom. 1,500 atoms with their 24 nearest neighbours; milliseconds.
Prints a table and writes it with the facts about the machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.common import RESULTS, timed, write_results

NUM_ATOMS, NEIGHBOURS = 1500, 24
WIDTHS = (64, 256, 1024)


def ways() -> dict[str, Callable[[jax.Array], jax.Array]]:
    """Functions (E, F) -> (N, F) for messages sorted by receiver."""
    rng = np.random.default_rng(0)
    receivers = np.repeat(np.arange(NUM_ATOMS), NEIGHBOURS)
    # Each atom has as many edges to it as from it, as in a graph that holds both directions.
    senders = rng.permutation(receivers)
    by_sender = np.argsort(senders, kind="stable")

    def summed(at: np.ndarray, *, in_order: bool = False) -> Callable[[jax.Array], jax.Array]:
        return lambda messages: jax.ops.segment_sum(
            messages, at, num_segments=NUM_ATOMS, indices_are_sorted=in_order
        )

    def dense(messages: jax.Array) -> jax.Array:
        return jnp.sum(messages.reshape(NUM_ATOMS, NEIGHBOURS, -1), axis=1)

    return {
        "at receivers: scatter": summed(receivers),
        "at receivers: sorted segments": summed(receivers, in_order=True),
        "at receivers: dense rows": dense,
        "at senders: scatter": summed(senders),
        "at senders: sorted segments": lambda x: summed(senders[by_sender], in_order=True)(
            x[by_sender]
        ),
        "at senders: dense rows": lambda x: dense(x[by_sender]),
        "for comparison: sigmoid and a sum": lambda x: jnp.sum(jax.nn.sigmoid(x), axis=0),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "edge_sums.json")
    options = parser.parse_args()
    rng = np.random.default_rng(1)
    rows: dict[str, dict[int, float]] = {name: {} for name in ways()}
    for width in WIDTHS:
        size = NUM_ATOMS * NEIGHBOURS, width
        messages = jnp.asarray(rng.normal(size=size).astype(np.float32))
        for name, way in ways().items():
            seconds = timed(jax.jit(way), messages, repeats=options.repeats)
            rows[name][width] = 1e3 * seconds["min_s"]
    print("| ms | " + " | ".join(f"{width} features" for width in WIDTHS) + " |")
    print("| --- |" + " --- |" * len(WIDTHS))
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[width]:.2f}" for width in WIDTHS) + " |")
    content = {"atoms": NUM_ATOMS, "neighbours": NEIGHBOURS, "milliseconds": rows}
    write_results(options.output, content)


if __name__ == "__main__":
    main()
