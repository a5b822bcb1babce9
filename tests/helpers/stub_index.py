"""An index of the embedded data set without a model: vectors follow from composition and system."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clac_jax.input_pipeline.labels import CRYSTAL_SYSTEMS
from helpers.paths import ROOT

TABLE = ROOT / "clac_jax/datasets/materials_project_mini/materials_project_mini.parquet"
COUNT = 6317
DIM = 32
_NAMES = ("band gap", "formation energy per atom", "bulk modulus", "elastic anisotropy")


class StubIndex:
    """Has what a map needs of an `Index`.

    Crystals of similar composition and of one crystal system are close, and so is a text to its
    crystal; texts and crystals are apart, as those of a contrastive model. Every seventh crystal
    has no text.
    """

    dim = DIM
    has_texts = True
    checksum = "c0ffee" * 10

    def __init__(self, count=COUNT):
        table = pq.read_table(TABLE)
        # Some of all kinds: the table is sorted.
        table = table.take(np.linspace(0, len(table) - 1, count).astype(int))
        self.count = len(table)
        self.info = {
            "model": {"name": "stub", "step": 7, "checksum": "0123456789abcdef" * 4, "dim": DIM},
            "data": [{"names": ["materials_project_mini"], "fingerprint": "f" * 64}],
        }
        self._items = self._read(table)
        self._crystals, self._texts = self._vectors()

    def items(self, columns=None):
        return self._items if columns is None else self._items.select(columns)

    def vector_shards(self):
        half = self.count // 2
        return [self._crystals[:half], self._crystals[half:]]

    def text_shards(self):
        return [self._texts]

    def _read(self, table):
        texts = table["gpt_text"].to_pylist()
        pattern = re.compile(rf"\b({'|'.join(CRYSTAL_SYSTEMS)})\b")
        found = [pattern.search(text) for text in texts]
        formulas = table["formula"].to_pylist()
        return pa.table(
            {
                "id": table["material_id"],
                "formula": formulas,
                "elements": [sorted(set(re.findall("[A-Z][a-z]?", f))) for f in formulas],
                "n_atoms": [len(z) for z in table["atomic_numbers"].to_pylist()],
                "crystal_system": [match and match[1] for match in found],
                **{name.replace(" ", "_"): table[name] for name in _NAMES},
                "text": [None if i % 7 == 6 else text for i, text in enumerate(texts)],
                "lattice": table["lattice"],
                "atomic_numbers": table["atomic_numbers"],
                "frac_coords": table["frac_coords"],
            }
        )

    def _vectors(self):
        generator = np.random.default_rng(0)
        of_element = generator.normal(size=(120, DIM))
        of_system = generator.normal(size=(len(CRYSTAL_SYSTEMS) + 1, DIM))
        gap = generator.normal(size=DIM)
        systems = [
            CRYSTAL_SYSTEMS.index(name) if name else -1
            for name in self._items["crystal_system"].to_pylist()
        ]
        numbers = self._items["atomic_numbers"].to_pylist()
        places = np.stack([of_element[np.array(z)].mean(axis=0) for z in numbers])
        places += 0.5 * of_system[systems]
        noise = generator.normal(size=(2, self.count, DIM))
        crystals, texts = _unit(places + 0.1 * noise[0] + gap), _unit(places + 0.2 * noise[1] - gap)
        texts[6::7] = 0
        return crystals, texts


def _unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)
