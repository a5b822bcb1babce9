"""The result of a comparison as tables, JSON and one page of HTML."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import clac_jax
from clac_jax.errors import one_line
from clac_jax.evaluation.comparison import (
    Comparison,
    compare,
    config_differences,
    figures_of,
)
from clac_jax.evaluation.intervals import CONFIDENCE, Estimate, Resampling
from clac_jax.evaluation.page import page
from clac_jax.evaluation.results import Results
from clac_jax.evaluation.section import Drawing, Section, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = 1
CURVES = {
    "val_loss": "validation loss",
    "text_to_crystal_top1": "text → crystal top-1 (validation)",
    "val_mae": "validation MAE",
    "val_accuracy": "validation accuracy",
}
"""Measures of validation rows that are drawn, with the words for them."""

_LONGEST = 48  # characters of a value in a table; the JSON has all of it
_COLORS = ("#3b7dd8", "#e07b39", "#4e9a58", "#a05fb5", "#8a8f98", "#c2a13a")


def sections_of(models: Sequence[Results], common: bool, how: Resampling) -> list[Section]:
    """The sections of a comparison; `values` of each is its part of the JSON.

    Args:
        models: the models; the first is the one that the others are compared with.
        common: whether different data were allowed, which is then noted.
        how: number of resamples and their seed.

    Raises:
        ResultsError: see `comparison.compare`.
    """
    return [_paired(models, common, how), _configs(models), _curves(models), _figures(models)]


def to_json(models: Sequence[Results], sections: Sequence[Section]) -> dict[str, Any]:
    """All parts of a comparison as plain JSON."""
    return {
        "format": FORMAT,
        "clac_jax": clac_jax.__version__,
        "models": [
            {
                "name": model.name,
                "step": model.step,
                "checksum": model.content["model"]["checksum"] if model.content else None,
                "data": model.content.get("data"),
            }
            for model in models
        ],
        **{section.name: section.values for section in sections},
    }


def html_of(models: Sequence[Results], sections: Sequence[Section]) -> str:
    """The comparison as a self-contained page."""
    facts = [
        (letter, f"{model.name}, " + (f"step {model.step:,}" if model.step else "not evaluated"))
        for letter, model in zip(_letters(models), models, strict=True)
    ]
    data = [model.content["data"] for model in models if model.content]
    for each in data[:1]:
        facts.append(("Data", f"{each['name']}, {each['split']} split: {each['size']:,} crystals"))
        facts.append(("Fingerprint", each["fingerprint"]))
    facts.append(("Program", f"clac_jax {clac_jax.__version__}"))
    return page("Comparison of " + ", ".join(m.name for m in models), facts, sections)


def _paired(models: Sequence[Results], common: bool, how: Resampling) -> Section:
    letters, tables, values = _letters(models), [], []
    evaluated = [number for number, model in enumerate(models) if model.is_evaluated]
    for number in evaluated[1:]:
        first = evaluated[0]
        found = compare(models[first], models[number], number, how)
        values.append(
            {
                "first": models[first].name,
                "other": models[number].name,
                "measures": [c.to_json() for c in found],
            }
        )
        tables.append(_difference_table(letters[first], letters[number], found))
    missing = [models[k].name for k in range(len(models)) if k not in evaluated]
    intro = (
        "Each example is scored by both models, and the mean of the differences is resampled by "
        f"composition ({how.resamples:,} resamples, seed {how.seed}), with {CONFIDENCE:.0%} "
        "intervals. Examples are matched by material_id. An interval that excludes 0 is a "
        "difference that is unlikely to come from the choice of the test crystals; it says nothing "
        "about training with a different seed."
    )
    if common:
        intro += (
            " The models were compared on the crystals that both have, although they were not "
            "evaluated on the same data: ranks in pools of different size are not comparable."
        )
    if missing:
        intro += f" Not evaluated: {', '.join(missing)} (run `clac-jax evaluate` on it)."
    result = {"resamples": how.resamples, "seed": how.seed, "common": common, "pairs": values}
    return Section("paired", "Differences, example by example", intro, tables, values=result)


def _difference_table(first: str, other: str, found: Sequence[Comparison]) -> Table:
    rows = []
    for c in found:
        percent = "top" in c.measure or (c.higher_is_better and max(map(abs, c.values)) <= 1)
        scale, digits = (100, 1) if percent else (1, 3)
        e = c.difference.estimate.scaled(scale)
        rows.append(
            (
                c.measure.replace("_", " ") + (" (%)" if percent else ""),
                *(f"{scale * value:.{digits}f}" for value in c.values),
                f"{e.value:+.{digits}f} [{e.low:+.{digits}f}, {e.high:+.{digits}f}]",
                f"{c.p_better:.3f}",
                _p_value(c),
                _verdict(c, first, other),
            )
        )
    n = found[0].difference.estimate.n if found else 0
    return Table(
        f"{other} compared with {first}, {n} crystals",
        ("measure", first, other, f"{other} - {first}", f"P({other} better)", "p", "better"),
        rows,
    )


def _p_value(c: Comparison) -> str:
    """The p value; where no draw has the other sign, only a bound is known."""
    if c.difference.p_value > 0:
        return f"{c.difference.p_value:.3f}"
    return f"< {2 / c.resamples:.2g}"


def _verdict(c: Comparison, first: str, other: str) -> str:
    """Which model is better, if the interval excludes no difference."""
    e = c.difference.estimate
    if e.low <= 0 <= e.high:
        return "-"
    return other if (e.value > 0) == c.higher_is_better else first


def _figures(models: Sequence[Results]) -> Section:
    found = [figures_of(model.content) if model.content else {} for model in models]
    names = list(dict.fromkeys(name for figures in found for name in figures))
    rows = [
        (name, *(_with_interval(f[name]) if name in f else "-" for f in found))
        for name in names
        if "/by_composition/" not in name  # the same figures with other intervals
    ]
    values = {name: [f[name].to_json() if name in f else None for f in found] for name in names}
    table = Table(
        "Figures of eval.json (shares are not in percent)",
        ("figure", *_letters(models)),
        rows,
        in_terminal=False,
    )
    intro = "Every figure with an interval in the evaluations of the models, side by side."
    return Section("figures", "Figures side by side", intro, [table], values=values)


def _configs(models: Sequence[Results]) -> Section:
    rows = config_differences(models)
    table = Table(
        "Keys of the config that differ" if rows else "The configs are equal",
        ("key", *_letters(models)),
        [(key, *map(_value, values)) for key, values in rows],
    )
    intro = (
        "Settings that differ between the runs, without those of places, logging and processes. "
        "Where more than one differs, a difference in the figures has more than one possible cause."
    )
    values: Mapping[str, Any] = dict(rows)
    return Section("config", "Config", intro, [table], values=dict(values))


def _curves(models: Sequence[Results]) -> Section:
    names = [m for m in CURVES if sum(any(m in r for r in _val(x)) for x in models)]
    curves = {
        name: [[[row["step"], row[name]] for row in _val(model) if name in row] for model in models]
        for name in names
    }
    table = Table(
        "Last and best validation",
        ("measure", *_letters(models)),
        [
            (f"{words}, {kind}", *(_number(_chosen(points, name, kind)) for points in curves[name]))
            for name, words in CURVES.items()
            if name in curves
            for kind in ("last", "best")
        ],
    )
    drawings = [
        Drawing(
            name,
            f"{words[0].upper()}{words[1:]} by step.",
            f"Curves of the {words}; last values: "
            + ", ".join(
                f"{letter} {_number(_chosen(points, name, 'last'))}"
                for letter, points in zip(_letters(models), curves[name], strict=True)
            ),
            functools.partial(_draw, curves=curves[name], letters=_letters(models), words=words),
            (6.4, 3.6),
        )
        for name, words in CURVES.items()
        if name in curves
    ]
    intro = "Validation during the training, from metrics.jsonl."
    return Section("curves", "Learning curves", intro, [table], drawings, {"points": curves})


def _draw(figure: Figure, curves: list[Any], letters: list[str], words: str) -> None:
    axis = figure.subplots()
    for k, (letter, points) in enumerate(zip(letters, curves, strict=True)):
        if points:
            steps, values = zip(*points, strict=True)
            axis.plot(steps, values, "o-", ms=3.5, color=_COLORS[k % len(_COLORS)], label=letter)
    axis.set(xlabel="step", ylabel=words)
    axis.legend(frameon=False)


def _val(model: Results) -> list[dict[str, Any]]:
    return [row for row in model.rows if row["split"] == "val"]


def _chosen(points: list[list[float]], name: str, kind: str) -> float:
    values = [value for _, value in points]
    if not values:
        return float("nan")
    if kind == "last":
        return values[-1]
    return min(values) if name in ("val_loss", "val_mae") else max(values)


def _letters(models: Sequence[Results]) -> list[str]:
    """A, B, C, ... for the models, in their order."""
    return [chr(ord("A") + k) if k < 26 else f"M{k}" for k in range(len(models))]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < float("inf") else "-"


def _with_interval(estimate: Estimate) -> str:
    ends = f" [{_number(estimate.low)}, {_number(estimate.high)}]"
    return _number(estimate.value) + (ends if estimate.low <= estimate.high else "")


def _value(value: Any) -> str:
    return "none" if value is None else one_line(value, _LONGEST)
