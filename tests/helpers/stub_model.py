"""A model without JAX or weights, whose vectors follow from the crystal or the text."""

import hashlib

import ml_collections
import numpy as np


class StubModel:
    """Has what an index needs of a `Model`; `salt` makes it a different one."""

    step = 7
    is_dot_product = True

    def __init__(self, salt="", dim=8):
        self.dim = dim
        self.name = f"stub{salt}"
        self.checksum = hashlib.sha256(self.name.encode()).hexdigest()
        self.config = ml_collections.FrozenConfigDict(
            {"task": "contrastive", "dataset": {"text_source": "narratives"}, "projection_dim": dim}
        )
        self.embedded = 0

    def embed_crystals(self, crystals, on_bad="raise", progress=True):
        """Unit vectors by formula and volume."""
        self.embedded += len(crystals)
        return np.array([self._vector(f"{c.formula} {c.volume:.6f}") for c in crystals])

    def embed_texts(self, texts, progress=True):
        """Unit vectors by text."""
        return np.array([self._vector(text) for text in texts])

    def _vector(self, words):
        seed = hashlib.sha256(f"{self.checksum} {words}".encode()).digest()[:8]
        vector = np.random.default_rng(int.from_bytes(seed, "little")).normal(size=self.dim)
        return (vector / np.linalg.norm(vector)).astype(np.float32)
