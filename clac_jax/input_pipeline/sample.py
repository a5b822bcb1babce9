"""The sizes of the examples from which batch shapes are planned, kept between starts.

Making the views of hundreds of examples only to count their atoms, edges and tokens is a large part
of the time before the first step. The sizes depend on nothing but the examples, the settings of the
views and the code that makes them, so a start with the same ones reads them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clac_jax.files.user_cache import code_hash, kept_file, read_checked, write_checked
from clac_jax.input_pipeline.example import ExampleViews, Present

_CODE = ("crystals", "text", "input_pipeline", "datasets")
_LIBRARIES = ("numpy", "scipy", "tokenizers", "sentencex", "vesin")


@dataclass(frozen=True)
class Sample:
    """The sizes of some examples.

    Attributes:
        nodes: (examples, crystal views) int64, number of atoms.
        edges: (examples, crystal views) int64, number of edges.
        tokens: (examples, text views) int64, number of tokens.
        present: which optional arrays they have.
    """

    nodes: np.ndarray
    edges: np.ndarray
    tokens: np.ndarray
    present: Present

    @classmethod
    def of(cls, examples: Sequence[ExampleViews]) -> Sample:
        """The sizes of examples with the views that batches will have."""
        return cls(
            nodes=np.array([[len(g.atomic_numbers) for g in e.graphs] for e in examples]),
            edges=np.array([[len(g.senders) for g in e.graphs] for e in examples]),
            tokens=np.array([[len(t.ids) for t in e.tokens] for e in examples]),
            present=examples[0].present,
        )


def kept_sample(facts: Sequence[str], make: Callable[[], Sequence[ExampleViews]]) -> Sample:
    """The sizes of examples, from the user's cache if an earlier start has stored them there.

    Args:
        facts: everything that the sizes depend on, besides the code.
        make: makes the views of the examples.
    """
    digest = hashlib.sha256(
        "\n".join([*facts, code_hash(_CODE, _LIBRARIES)]).encode("utf-8", "surrogateescape")
    )
    path = kept_file("sizes", f"{digest.hexdigest()[:32]}.json")
    if (content := read_checked(path)) is not None:
        return _from_json(content)
    sample = Sample.of(make())
    with contextlib.suppress(OSError):  # the next start counts again
        write_checked(path, _to_json(sample))
    return sample


def _to_json(sample: Sample) -> bytes:
    values = [array.tolist() for array in (sample.nodes, sample.edges, sample.tokens)]
    return json.dumps([*values, *dataclasses.astuple(sample.present)]).encode()


def _from_json(content: bytes) -> Sample:
    nodes, edges, tokens, *present = json.loads(content)
    return Sample(np.array(nodes), np.array(edges), np.array(tokens), Present(*present))
