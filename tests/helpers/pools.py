"""Pools of an evaluation without a trained model: vectors that a test chooses."""

import hashlib

import ml_collections
import numpy as np

from clac_jax.config.schema import to_plain
from clac_jax.datasets.record import Record
from clac_jax.evaluation.intervals import Resampling
from clac_jax.evaluation.pool import DataFacts, Pool, PropertyPool
from configs import finetune_property, smoke

FEW = Resampling(resamples=50)


class StubModel:
    """A model whose vectors of texts come from a dict, or else from the text itself."""

    name, step, is_dot_product = "stub", 7, True
    checksum = "ab" * 32

    def __init__(self, config, dim=4, vectors=None, logit_scale=1.0):
        self.config = ml_collections.FrozenConfigDict(to_plain(config))
        self.dim, self.vectors, self.logit_scale = dim, dict(vectors or {}), logit_scale

    def embed_texts(self, texts, progress=True):
        return np.array([self.vector_of(text) for text in texts], np.float32)

    def embed_crystals(self, crystals, on_bad="raise", progress=True):
        return self.embed_texts([crystal.formula for crystal in crystals])

    def predict(self, crystals, on_bad="raise", progress=True):
        return np.array([crystal.num_atoms for crystal in crystals], np.float32)

    def vector_of(self, text):
        if text not in self.vectors:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
            vector = np.random.default_rng(seed).normal(size=self.dim)
            self.vectors[text] = vector / np.linalg.norm(vector)
        return self.vectors[text]

    def scores(self, text_vectors, crystal_vectors):
        scores = self.logit_scale * np.asarray(text_vectors) @ np.asarray(crystal_vectors).T
        return scores.astype(np.float32)


def records_of(formulas, **columns):
    """Records of one atom each; `columns` are lists of values of further fields."""
    return [
        Record(
            material_id=f"id-{k}",
            lattice=4.0 * np.eye(3),
            atomic_numbers=np.array([1 + k % 90], np.int32),
            positions=np.zeros((1, 3)),
            formula=formula,
            gpt_text=f"The text of {k}.",
            **{name: values[k] for name, values in columns.items()},
        )
        for k, formula in enumerate(formulas)
    ]


def pool_of(crystals, texts, formulas=None, resampling=FEW, **options):
    """A pool of these vectors; `options`: `model`, `records`, `texts_no_formula`,
    `train`.
    """
    crystals, texts = np.asarray(crystals, np.float32), np.asarray(texts, np.float32)
    formulas = formulas or [f"X{k}" for k in range(len(crystals))]
    return Pool(
        model=options.get("model") or StubModel(smoke.get_config(), crystals.shape[1]),
        records=options.get("records") or records_of(formulas),
        formulas=list(formulas),
        data=DataFacts("a data set", "test", "cd" * 16, True),
        resampling=resampling,
        crystals=crystals,
        texts=texts,
        texts_no_formula=np.asarray(options.get("texts_no_formula", texts), np.float32),
        train=options.get("train", ()),
    )


def pool_of_scores(scores, **options):
    """A pool in which text i scores `scores[i][j]` with crystal j."""
    scores = np.asarray(scores, np.float32)
    return pool_of(np.eye(len(scores), dtype=np.float32), scores, **options)


def property_pool_of(predicted, labels, train, kind="regression", name="band gap"):
    """A property pool; `train` are labelled records."""
    config = finetune_property.get_config()
    config.property.name, config.property.kind = name, kind
    records = records_of([f"X{k}" for k in range(len(labels))])
    return PropertyPool(
        model=StubModel(config),
        records=records,
        formulas=[record.formula for record in records],
        data=DataFacts("a data set", "test", "cd" * 16, True),
        resampling=FEW,
        labels=np.asarray(labels, np.float64),
        predicted=np.asarray(predicted, np.float64),
        train=train,
    )
