"""The section on retrieval: tables, curves and rows of the protocols in `ranking`."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from clac_jax.evaluation.intervals import Estimate, Resampling
from clac_jax.evaluation.pool import Pool
from clac_jax.evaluation.ranking import (
    ERRORS,
    KS,
    REFERENCE_KS,
    REFERENCE_POOL,
    REFERENCE_RESAMPLING,
    VARIANTS,
    chance,
    chance_of_formula,
    first_crystals,
    formula_ranks,
    kinds_of_errors,
    mean_of,
    polymorph_ranks,
    pool_ranks,
    reference_ranks,
    summarize,
    texts_of,
)
from clac_jax.evaluation.section import Drawing, Section, Table, decimal, percent
from clac_jax.tasks.metrics import Ranks

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

_KINDS = {"": "full text", "_no_formula": "no formula"}


def retrieval(pool: Pool) -> Section:
    """The task: retrieval in both directions, the right formula, polymorphs, reference protocol."""
    ranks = pool_ranks(pool)
    values: dict[str, Any] = {"pool_size": len(pool), "chance": chance(len(pool))}
    entire = _entire_pool(pool, ranks, values)
    formula = _right_formula(pool, values)
    polymorphs = _polymorphs(pool, values)
    reference = _reference(pool, values)
    first = first_crystals(pool, pool.texts)
    values["wrong_first_crystals"] = errors = kinds_of_errors(pool, first)
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
        tables=[*entire, formula, *polymorphs, reference, _error_table(errors)],
        figures=[drawing],
        values=values,
        examples={"ranks": _examples(pool, ranks, first)},
    )


def _entire_pool(pool: Pool, ranks: dict[str, Ranks], values: dict[str, Any]) -> list[Table]:
    names = [f"top{k}" for k in KS]
    columns = ("query → candidates", *(f"top-{k} (%)" for k in KS), "median rank", "mean rank")
    tables = []
    for key, caption, how in (
        ("by_example", "intervals over examples", pool.resampling),
        ("by_composition", "intervals over compositions", pool.by_formula),
    ):
        rows, results = [], {name: summarize(ranks[name], how) for name in VARIANTS}
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
        ranks = formula_ranks(pool, texts_of(pool, suffix))
        found = {f"top{k}": mean_of(ranks.credit(k), pool.by_formula) for k in KS}
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
        found = polymorph_ranks(pool, texts_of(pool, suffix))
        if found is None:
            continue
        luck = float(np.mean(1 / found.sizes))
        formulas = np.asarray(pool.formulas)[found.queries]
        how = Resampling(pool.resampling.resamples, pool.resampling.seed, formulas)
        top1 = mean_of(found.ranks.credit(1), how)
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
            f"Polymorphs: the own crystal of a text among those of its formula "
            f"({facts['queries']} texts, {facts['formulas']} formulas)",
            ("text → crystal", "first (%)", "chance (%)"),
            rows,
            "Formulas with more than one crystal in the pool; intervals over compositions. A model "
            "that sees only the composition is at chance here.",
        )
    ]


def _reference(pool: Pool, values: dict[str, Any]) -> Table:
    ranks, sizes = reference_ranks(pool)
    found = {f"top{k}": mean_of(ranks.credit(k), REFERENCE_RESAMPLING) for k in REFERENCE_KS}
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


def _error_table(errors: dict[str, int]) -> Table:
    total = sum(errors.values())
    rows = [
        (words, str(errors[name]), percent(errors[name] / total) if total else "-")
        for name, words in ERRORS.items()
    ]
    return Table(
        f"The {total} full texts whose first crystal is not their own: its relation to it",
        ("first crystal", "texts", "share (%)"),
        rows,
    )


def _examples(pool: Pool, ranks: dict[str, Ranks], first: np.ndarray) -> pa.Table:
    """One row per record: ranks (1 = first, ties at their middle), number of ties, first crystal.

    Args:
        pool: the pool.
        ranks: for each of VARIANTS.
        first: the crystal that each full text ranks first.
    """
    import pyarrow as pa

    columns: dict[str, Any] = {
        "material_id": [record.material_id for record in pool.records],
        "formula": pool.formulas,
        "pool_size": np.full(len(pool), len(pool), np.int32),
    }
    for name in VARIANTS:
        columns[f"rank_{name}"] = ranks[name].fair
        columns[f"tied_{name}"] = ranks[name].tied.astype(np.int32)
    columns["first_crystal"] = [pool.records[k].material_id for k in first]
    return pa.table(columns)


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
