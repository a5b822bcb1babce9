"""A step of a run in words and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from clac_jax.healing.spikes import SIGMA_PER_DEVIATION
from clac_jax.replay.examination import Examination, Example
from clac_jax.replay.history import History
from clac_jax.replay.replayer import Done
from clac_jax.replay.verdict import Verdict

WORST = 8
"""Examples that are listed without `--examples`."""
OUTLIER = 6.0
"""Robust deviations above the median from which an example is marked."""


def robust_deviations(values: Sequence[float], of: Sequence[float]) -> list[float]:
    """The robust standard deviations of each value above the median of others."""
    others = np.asarray([x for x in of if math.isfinite(x)], np.float64)
    if not len(others):
        return [math.nan for _ in values]
    middle = float(np.median(others))
    spread = SIGMA_PER_DEVIATION * float(np.median(np.abs(others - middle)))
    return [
        math.inf if not math.isfinite(x) else (x - middle) / spread if spread else 0.0
        for x in values
    ]


def step_lines(history: History, done: Done, verdict: Verdict) -> list[str]:
    """The step as a whole: where it is in the run, its loss, and the verdict."""
    metrics, before = done.metrics, done.before
    terms = {
        name.removesuffix("_loss").replace("_", " "): value
        for name, value in metrics.items()
        if name not in ("loss", "grad_norm", "learning_rate")
    }
    shown = ", ".join(f"{name} {value:.4f}" for name, value in terms.items())
    return [
        f"step      {done.step:,} of {history.last_step:,}, epoch {before.epoch}, "
        f"from example {before.examples_in_epoch:,} of its order",
        f"loss      {metrics['loss']:.6g}" + (f" ({shown})" if shown else ""),
        f"gradient  norm {metrics['grad_norm']:.6g} before clipping; learning rate "
        f"{metrics['learning_rate']:.6g}",
        *labelled("digest", verdict.words),
    ]


def labelled(label: str, lines: Sequence[str]) -> list[str]:
    """Lines with a label before the first one."""
    return [f"{label if not k else '':<10}{line}" for k, line in enumerate(lines)]


def examination_lines(examination: Examination, with_examples: bool) -> list[str]:
    """Gradient by part, its largest elements, and the examples."""
    norms = sorted(examination.gradient_norms.items(), key=lambda each: -_magnitude(each[1]))
    lines = labelled("by part", [f"{norm:<12.6g}{part}" for part, norm in norms])
    elements = [
        f"{value:<+12.6g}{path}[{', '.join(map(str, index))}]"
        for path, index, value in examination.largest
    ]
    lines += labelled("largest", elements)
    lines += ["", *example_table(examination.examples, with_examples)]
    if with_examples:
        for example in examination.examples:
            lines += ["", *view_lines(example)]
    return lines


def example_table(examples: Sequence[Example], is_complete: bool) -> list[str]:
    """The examples by their part of the loss, the largest first."""
    losses = [example.loss for example in examples]
    deviations = robust_deviations(losses, losses)
    order = sorted(range(len(examples)), key=lambda k: -_magnitude(losses[k]))
    shown = order if is_complete else order[:WORST]
    rows = [["", "example", "formula", "atoms", "loss", "deviations", *_headings(examples[0])]]
    for k in shown:
        example = examples[k]
        mark = "!" if deviations[k] > OUTLIER or not example.finite else ""
        row = [mark, example.name, example.formula, f"{example.atoms}", f"{example.loss:.4g}"]
        rows.append([*row, f"{deviations[k]:+.1f}", *_cells(example)])
    title = "examples  " + (
        f"all {len(examples)}"
        if len(shown) == len(examples)
        else f"{len(shown)} of {len(examples)}"
    )
    lines = [f"{title}, by their part of the loss, the largest first", *aligned(rows)]
    if bad := [example.name for example in examples if not example.finite]:
        lines.append(f"NOT FINITE already in the model's own vectors: {', '.join(bad)}")
    return lines


def _headings(example: Example) -> list[str]:
    if example.predicted is not None:
        return ["predicted", "label"]
    return [] if example.own_score is None else ["own score", "ahead of it", "best other"]


def _cells(example: Example) -> list[str]:
    if example.predicted is not None:
        return [f"{value:.4g}" for value in example.predicted]
    if example.own_score is None:
        return []
    other = "" if example.rival is None else f"{example.rival[1]:.2f} {example.rival[0]}"
    return [f"{example.own_score:.2f}", f"{example.rank}", other]


def view_lines(example: Example) -> list[str]:
    """The views of an example: what was drawn."""
    lines = [f"{example.name}  {example.formula}, example {example.index} of the training split"]
    lines += [f"  crystal {k + 1}  {view.words}" for k, view in enumerate(example.crystals)]
    for number, text in enumerate(example.texts):
        how = []
        if text.sentences:
            kept = " ".join(str(k + 1) for k in text.kept)
            how.append(f"sentences {kept} of {len(text.sentences)}")
        how.append("formulas replaced" if text.replaced else "formulas kept")
        if text.hidden:
            how.append("elements hidden")
        how.append(f"{len(text.tokens.ids)} tokens")
        lines.append(f"  text {number + 1}     {', '.join(how)}: {text.words}")
    return lines


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; the first two columns and the last one are aligned to the left."""
    last = len(rows[0]) - 1
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if k in (0, 1, 2, last) else cell.rjust(width)
            for k, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


def to_json(
    history: History, done: Done, verdict: Verdict, examination: Examination | None
) -> dict[str, Any]:
    """The step as plain values; numbers that JSON lacks are texts."""
    facts: dict[str, Any] = {
        "run": history.name,
        "step": done.step,
        "epoch": done.before.epoch,
        "examples_in_epoch": done.before.examples_in_epoch,
        "metrics": done.metrics,
        "digests": {name: str(digest) for name, digest in done.digests.items()},
        "equal": verdict.is_equal,
        "verdict": dataclasses.asdict(verdict),
    }
    if examination is not None:
        facts |= {
            "gradient_norms": examination.gradient_norms,
            "largest_gradients": [
                {"path": path, "index": index, "value": value}
                for path, index, value in examination.largest
            ],
            "examples": [_example_json(example) for example in examination.examples],
            "similarity": _rows(examination.similarity),
        }
    plain: dict[str, Any] = as_plain(facts)
    return plain


def _rows(similarity: np.ndarray | None) -> Any:
    """(batches, texts, crystals) scores by slot, as nested lists."""
    return None if similarity is None else similarity.tolist()


def _example_json(example: Example) -> dict[str, Any]:
    texts = [
        {
            "sentences": len(text.sentences),
            "kept": text.kept,
            "replaced": text.replaced,
            "hidden": text.hidden,
            "tokens": len(text.tokens.ids),
            "words": text.words,
        }
        for text in example.texts
    ]
    values = {
        field.name: getattr(example, field.name)
        for field in dataclasses.fields(example)
        if field.name not in ("texts", "crystals", "name")
    }
    crystals = [
        {"largest_displacement": view.largest, "strain": view.strain.tolist()}
        for view in example.crystals
    ]
    return {"id": example.name, **values, "crystals": crystals, "texts": texts}


def as_plain(value: Any) -> Any:
    """Values of JSON: tuples become lists, numbers that are not finite become texts."""
    if isinstance(value, dict):
        return {str(name): as_plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _magnitude(value: float) -> float:
    return value if math.isfinite(value) else math.inf
