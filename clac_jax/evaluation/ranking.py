"""Retrieval: where the matching crystal of a text is among all crystals, and the reverse."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.evaluation.intervals import Estimate, Resampling, bootstrap
from clac_jax.evaluation.pool import Pool
from clac_jax.evaluation.section import Drawing, Section, Table, decimal, percent
from clac_jax.tasks.metrics import Ranks, ranks_of

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

KS = (1, 3, 5, 10)
REFERENCE_POOL, REFERENCE_KS = 512, (1, 3, 10)
REFERENCE_RESAMPLING = Resampling(resamples=1000, seed=42)

VARIANTS = {
    "text_to_crystal": "text → crystal",
    "crystal_to_text": "crystal → text",
    "text_to_crystal_no_formula": "text → crystal, no formula",
    "crystal_to_text_no_formula": "crystal → text, no formula",
}
"""Direction and kind of text -> the words for it. "No formula": each formula reads "material"."""


@dataclass(frozen=True)
class Polymorphs:
    """Ranks within the groups of crystals of the same formula.

    Attributes:
        queries: (m,) int, the examples that share their formula with another one.
        sizes: (m,) int, number of crystals of that formula.
        ranks: rank of the own crystal of each text among them.
    """

    queries: np.ndarray
    sizes: np.ndarray
    ranks: Ranks


def pool_ranks(pool: Pool) -> dict[str, Ranks]:
    """The ranks in the entire pool, for each of VARIANTS."""
    return {
        name: _all_ranks(pool, _texts(pool, name), name.startswith("text_to_crystal"))
        for name in VARIANTS
    }


def formula_ranks(pool: Pool, texts: np.ndarray) -> Ranks:
    """For each text, the rank of the first crystal that has the right reduced formula.

    Only crystals of other formulas can be ahead of it or tie with it.
    """
    formula = np.unique(pool.formulas, return_inverse=True)[1]
    ahead, tied = np.zeros(len(pool), np.int64), np.zeros(len(pool), np.int64)
    for block, scores in pool.score_blocks(texts):
        is_right = formula[block][:, None] == formula
        best = np.where(is_right, scores, -np.inf).max(axis=1, keepdims=True)
        ahead[block] = ((scores > best) & ~is_right).sum(axis=1)
        tied[block] = ((scores == best) & ~is_right).sum(axis=1)
    return Ranks(ahead, tied)


def reference_ranks(pool: Pool) -> tuple[Ranks, list[int]]:
    """The reference's protocol: ranks of crystals for texts, in pools of 512 in order.

    Returns:
        The rank in its own pool for each example, and the sizes of the pools, of which the last
        can be smaller.
    """
    parts, sizes = [], []
    for start in range(0, len(pool), REFERENCE_POOL):
        part = slice(start, start + REFERENCE_POOL)
        parts.append(ranks_of(pool.model.scores(pool.texts[part], pool.crystals[part])))
        sizes.append(len(parts[-1].ahead))
    ahead, tied = (np.concatenate([getattr(p, name) for p in parts]) for name in ("ahead", "tied"))
    return Ranks(ahead, tied), sizes


def polymorph_ranks(pool: Pool, texts: np.ndarray) -> Polymorphs | None:
    """For each text whose formula several crystals have: the rank of its own among these.

    Returns:
        None if all formulas are different.
    """
    members: dict[str, list[int]] = {}
    for number, formula in enumerate(pool.formulas):
        members.setdefault(formula, []).append(number)
    groups = [np.array(group) for group in members.values() if len(group) > 1]
    if not groups:
        return None
    ranks = [ranks_of(pool.model.scores(texts[g], pool.crystals[g])) for g in groups]
    return Polymorphs(
        queries=np.concatenate(groups),
        sizes=np.concatenate([np.full(len(group), len(group)) for group in groups]),
        ranks=Ranks(*(np.concatenate([getattr(r, n) for r in ranks]) for n in ("ahead", "tied"))),
    )


def summarise(ranks: Ranks, how: Resampling, ks: tuple[int, ...] = KS) -> dict[str, Estimate]:
    """`top1`, ..., `median_rank` and `mean_rank` (1 = first), each with its interval."""
    estimates = {f"top{k}": _mean(ranks.credit(k), how) for k in ks}
    return estimates | {
        "median_rank": bootstrap(ranks.fair, np.median, how.groups, how.resamples, how.seed),
        "mean_rank": _mean(ranks.fair, how),
    }


def chance(pool_size: int, ks: tuple[int, ...] = KS) -> dict[str, float]:
    """What random scores achieve on average in a pool of this size."""
    middle = (pool_size + 1) / 2
    return {f"top{k}": min(k, pool_size) / pool_size for k in ks} | {
        "median_rank": middle,
        "mean_rank": middle,
    }


def chance_of_formula(formulas: list[str], k: int) -> float:
    """Probability that k crystals drawn at random include one of the right formula, mean."""
    n = len(formulas)
    counts = Counter(formulas)
    draws = np.arange(min(k, n))
    missed = {
        size: float(np.prod((n - size - draws).clip(0) / (n - draws)))
        for size in set(counts.values())
    }
    return float(np.mean([1 - missed[counts[formula]] for formula in formulas]))


def retrieval(pool: Pool) -> Section:
    """The task: retrieval in both directions, the right formula, polymorphs, reference protocol."""
    ranks = pool_ranks(pool)
    values: dict[str, Any] = {"pool_size": len(pool), "chance": chance(len(pool))}
    whole = _whole_pool(pool, ranks, values)
    formula = _right_formula(pool, values)
    polymorphs = _polymorphs(pool, values)
    reference = _reference(pool, values)
    drawing = Drawing(
        "ranks",
        f"Share of queries whose match is among the first k of {len(pool)}, by k.",
        "Curves of retrieval accuracy by k. "
        + "; ".join(
            f"{words}: {percent(float(np.mean(ranks[name].credit(1))))} % at k = 1, "
            f"{percent(float(np.mean(ranks[name].credit(10))))} % at k = 10"
            for name, words in VARIANTS.items()
        ),
        functools.partial(_draw_curves, ranks=ranks, size=len(pool)),
    )
    return Section(
        name="retrieval",
        title="Retrieval",
        intro=(
            f"Each of the {len(pool)} texts of the {pool.split} split ranks all {len(pool)} "
            "crystals by its score with them, and each crystal ranks all texts. Top-k is the "
            "share of queries whose match is among the first k, in percent. Candidates with the "
            "same score are taken in every order with the same probability, so ties favour no "
            "one. Intervals are 95 % bootstrap intervals."
        ),
        tables=[*whole, formula, *polymorphs, reference],
        figures=[drawing],
        values=values,
        examples={"ranks": _examples(pool, ranks)},
    )


def _whole_pool(pool: Pool, ranks: dict[str, Ranks], values: dict[str, Any]) -> list[Table]:
    names = [f"top{k}" for k in KS]
    columns = ("query → candidates", *(f"top-{k} (%)" for k in KS), "median rank", "mean rank")
    tables = []
    for key, caption, how in (
        ("by_example", "intervals over examples", pool.resampling),
        ("by_composition", "intervals over compositions", pool.by_formula),
    ):
        rows, results = [], {name: summarise(ranks[name], how) for name in VARIANTS}
        values[key] = {name: _json(estimates) for name, estimates in results.items()}
        for name, words in VARIANTS.items():
            found = results[name]
            cells = [percent(found[top]) for top in names]
            rows.append(
                (words, *cells, decimal(found["median_rank"], 1), decimal(found["mean_rank"], 1))
            )
        luck = chance(len(pool))
        middle = decimal(luck["mean_rank"], 1)
        rows.append(
            (f"chance, 1 in {len(pool)}", *(percent(luck[t]) for t in names), middle, middle)
        )
        tables.append(Table(f"Entire pool of {len(pool)}, {caption}", columns, rows))
    note = (
        f"The {len(set(pool.formulas))} compositions, not the {len(pool)} examples, are drawn: "
        "polymorphs of a composition are not independent."
    )
    return [tables[0], dataclasses.replace(tables[1], note=note, in_terminal=False)]


def _right_formula(pool: Pool, values: dict[str, Any]) -> Table:
    rows, values["right_formula"] = [], {}
    for suffix, words in _KINDS.items():
        ranks = formula_ranks(pool, _texts(pool, suffix))
        found = {f"top{k}": _mean(ranks.credit(k), pool.by_formula) for k in KS}
        values["right_formula"][f"text_to_crystal{suffix}"] = _json(found)
        rows.append((words, *(percent(found[f"top{k}"]) for k in KS)))
    luck = {f"top{k}": chance_of_formula(pool.formulas, k) for k in KS}
    values["right_formula"]["chance"] = luck
    rows.append(("chance", *(percent(luck[f"top{k}"]) for k in KS)))
    return Table(
        "Right formula: any crystal of the text's formula counts",
        ("text → crystal", *(f"top-{k} (%)" for k in KS)),
        rows,
        "Intervals over compositions.",
    )


def _polymorphs(pool: Pool, values: dict[str, Any]) -> list[Table]:
    rows, values["polymorphs"] = [], None
    for suffix, words in _KINDS.items():
        found = polymorph_ranks(pool, _texts(pool, suffix))
        if found is None:
            continue
        luck = float(np.mean(1 / found.sizes))
        formulas = np.asarray(pool.formulas)[found.queries]
        how = Resampling(pool.resampling.resamples, pool.resampling.seed, formulas)
        top1 = _mean(found.ranks.credit(1), how)
        values["polymorphs"] = (values["polymorphs"] or {}) | {
            f"text_to_crystal{suffix}": {"top1": top1.to_json()},
            "chance": {"top1": luck},
            "queries": len(found.queries),
            "formulas": len(set(formulas)),
        }
        rows.append((words, percent(top1), percent(luck)))
    if not rows:
        return []
    facts = values["polymorphs"]
    return [
        Table(
            "Polymorphs: the own crystal of a text among those of its formula",
            ("text → crystal", "first (%)", "chance (%)"),
            rows,
            f"{facts['queries']} texts of the {facts['formulas']} formulas with more than one "
            "crystal in the pool; intervals over compositions. A model that sees only the "
            "composition is at chance here.",
        )
    ]


def _reference(pool: Pool, values: dict[str, Any]) -> Table:
    ranks, sizes = reference_ranks(pool)
    found = {f"top{k}": _mean(ranks.credit(k), REFERENCE_RESAMPLING) for k in REFERENCE_KS}
    luck = {
        f"top{k}": float(np.average([min(k, size) / size for size in sizes], weights=sizes))
        for k in REFERENCE_KS
    }
    values["reference_protocol"] = {
        "pool_sizes": sizes,
        "text_to_crystal": _json(found),
        "chance": luck,
        "resamples": REFERENCE_RESAMPLING.resamples,
        "seed": REFERENCE_RESAMPLING.seed,
    }
    shown = ", ".join(map(str, sizes)) if len(sizes) < 8 else f"{len(sizes)}, the last {sizes[-1]}"
    return Table(
        f"Protocol of the reference: pools of {REFERENCE_POOL} in order",
        ("text → crystal", *(f"top-{k} (%)" for k in REFERENCE_KS)),
        [
            ("in its own pool", *(percent(found[f"top{k}"]) for k in REFERENCE_KS)),
            ("chance in these pools", *(percent(luck[f"top{k}"]) for k in REFERENCE_KS)),
        ],
        f"Sizes of the pools: {shown}; the last is kept, and chance takes each pool's own size. "
        "1000 resamples, seed 42. Comparable only with figures of the same pools: a smaller pool "
        "is easier.",
    )


_KINDS = {"": "full text", "_no_formula": "no formula"}


def _texts(pool: Pool, name: str) -> np.ndarray:
    return pool.texts_no_formula if name.endswith("_no_formula") else pool.texts


def _all_ranks(pool: Pool, texts: np.ndarray, queries_are_texts: bool) -> Ranks:
    parts = [
        ranks_of(scores, np.arange(len(pool))[block])
        for block, scores in pool.score_blocks(texts, queries_are_texts)
    ]
    return Ranks(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("ahead", "tied")))


def _examples(pool: Pool, ranks: dict[str, Ranks]) -> pa.Table:
    """One row per record: its ranks (1 = first, ties at their middle) and how many tie with it."""
    import pyarrow as pa

    columns: dict[str, Any] = {
        "material_id": [record.material_id for record in pool.records],
        "formula": pool.formulas,
        "pool_size": np.full(len(pool), len(pool), np.int32),
    }
    for name in VARIANTS:
        columns[f"rank_{name}"] = ranks[name].fair
        columns[f"tied_{name}"] = ranks[name].tied.astype(np.int32)
    return pa.table(columns)


def _mean(values: np.ndarray, how: Resampling) -> Estimate:
    return bootstrap(values, None, how.groups, how.resamples, how.seed)


def _json(estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def _draw_curves(figure: Figure, ranks: dict[str, Ranks], size: int) -> None:
    axis = figure.subplots()
    ks = np.unique(np.geomspace(1, size, 60).round().astype(int))
    colors = ("#3b7dd8", "#e07b39")
    for name, words in VARIANTS.items():
        curve = [100 * float(np.mean(ranks[name].credit(int(k)))) for k in ks]
        axis.plot(
            ks,
            curve,
            color=colors[name.startswith("crystal")],
            ls="--" if name.endswith("_no_formula") else "-",
            label=words,
        )
    axis.plot(ks, 100 * ks / size, color="#8a8f98", ls=":", label="chance")
    axis.set(xscale="log", xlabel="k", ylabel="match among the first k (%)", ylim=(0, 102))
    axis.set_xticks([k for k in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000) if k <= size])
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=9)
