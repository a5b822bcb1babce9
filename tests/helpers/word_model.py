"""A model without weights: a text is the mean of its words, a crystal the mean of its elements."""

import zlib

import ml_collections
import numpy as np

from clac_jax.config.schema import default_config, to_plain
from clac_jax.crystals import elements
from clac_jax.crystals.crystal import Crystal
from clac_jax.crystals.reading import crystal_of
from clac_jax.index.build import embed
from clac_jax.index.plan import EmbedOptions
from helpers.user_tables import write

DIM = 32

# (id, elements, text, band gap): the rows of `words_index`, in order.
TABLE = (
    ("a-1", ("Na", "Cl"), "Na Cl salt. It is white.", 5.0),
    ("a-2", ("Ti", "O"), "Ti O oxide. It is black.", 0.0),
    ("a-3", ("Mg", "O"), "Mg O ceramic. It is white.", 4.5),
    ("a-4", ("Pb", "Te"), "Pb Te is toxic. It is grey.", 0.3),
    ("a-5", ("Pb", "O"), "Pb O is toxic. It is yellow.", None),
    ("a-6", ("Cs", "I"), "", 3.9),
)


class WordModel:
    """Has the attributes of a `Model` that an index and a search use."""

    name = "words"
    dim = DIM
    step = 7
    is_dot_product = True

    def __init__(self, seed=0):
        self.seed = seed
        self.checksum = f"{seed:064x}"
        self.config = ml_collections.FrozenConfigDict(to_plain(default_config()))
        self.calls = []  # number of texts in each call

    def embed_texts(self, texts, **options):
        self.calls.append(len(texts))
        return np.stack([self._mean(text.replace(".", "").split()) for text in texts])

    def embed_crystals(self, crystals, **options):
        return np.stack([self._mean(symbols_of(crystal)) for crystal in crystals])

    def _mean(self, words):
        vectors = []
        for word in words:
            rng = np.random.default_rng(zlib.crc32(word.encode()) + self.seed)
            vectors.append(rng.normal(size=DIM))
        mean = np.mean(vectors, axis=0)
        return (mean / np.linalg.norm(mean)).astype(np.float32)


def symbols_of(value):
    crystal = value if isinstance(value, Crystal) else crystal_of(value)
    return [elements.symbol(int(z)) for z in crystal.atomic_numbers]


def crystal_with(symbols, a=4.2):
    """A cubic cell with these elements along its diagonal."""
    numbers = [elements.atomic_number(symbol) for symbol in symbols]
    places = np.arange(len(symbols))[:, None] / len(symbols) * np.ones(3)
    return Crystal.from_arrays(a * np.eye(3), numbers, places)


def words_index(folder, model=None, **options):
    """An index of TABLE in a new folder."""
    rows = [
        {
            "id": name,
            "atoms": {**crystal_with(symbols).to_atoms()},
            "gpt_text": text,
            "band gap": gap,
        }
        for name, symbols, text, gap in TABLE
    ]
    table = write(folder / "table.jsonl", rows)
    return embed(model or WordModel(), [str(table)], folder / "idx", EmbedOptions(**options))
