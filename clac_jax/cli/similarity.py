"""`clac-jax similarity`: the similarity of prompts to named crystals."""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np

from clac_jax.cli.index import MODEL
from clac_jax.errors import UserError


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `similarity`."""
    group.add_argument("model", metavar="MODEL", help=MODEL)
    group.add_argument("texts", metavar="TEXT", nargs="+", help="one or several descriptions")
    group.add_argument(
        "--crystals", metavar="FILE", nargs="+", default=[], help="files of crystals"
    )
    group.add_argument(
        "--ids",
        metavar="ID",
        nargs="+",
        default=[],
        help="ids in --index, or in the data set of the model",
    )
    group.add_argument(
        "--index",
        help="an index made by the model (default: that of its own data set, made if needed)",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.set_defaults(run=_similarity)


def _similarity(options: argparse.Namespace) -> int:
    if not (options.crystals or options.ids):
        raise UserError("There are no crystals to compare with. Give --crystals or --ids.")
    from clac_jax.api import load
    from clac_jax.cli.search import rows_of
    from clac_jax.index.exact import ExactSearch
    from clac_jax.index.own import own_index
    from clac_jax.index.store import Index

    model = load(options.model)
    texts = model.embed_texts(options.texts)
    vectors = []
    if options.crystals:
        vectors.append(model.embed_crystals(options.crystals))
    if options.ids:
        index = Index(options.index) if options.index else own_index(model)
        index.require_model(model)
        rows = np.array(rows_of(index, options.ids), np.int64)
        vectors.append(ExactSearch(index.vector_shards()).vectors(rows))
    crystals = np.concatenate(vectors)
    cosines = texts @ crystals.T if model.is_dot_product else None
    logits = model.scores(texts, crystals)
    rows_out: list[dict[str, Any]] = [
        {
            "text": text,
            "crystal": name,
            "cosine": None if cosines is None else round(float(cosines[i, j]), 6),
            "logit": round(float(logits[i, j]), 6),
        }
        for i, text in enumerate(options.texts)
        for j, name in enumerate([*options.crystals, *options.ids])
    ]
    if options.json:
        print(json.dumps(rows_out, indent=1, allow_nan=False))
        return 0
    for text in options.texts:
        print(text)
        for row in sorted((r for r in rows_out if r["text"] == text), key=lambda r: -r["logit"]):
            cosine = "     -" if row["cosine"] is None else f"{row['cosine']:6.3f}"
            print(f"  cosine {cosine}  logit {row['logit']:8.3f}  {row['crystal']}")
    return 0
