"""Greedy soups: the average of those checkpoints that make it better on validation.

Wortsman et al. 2022, arXiv:2203.05482. The candidates are sorted by their own value, and each joins
the average if that does not get worse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.averages import read_evaluated
from clac_jax.checkpoint.averaging import average, ingredients, model_paths, save_average
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.made_from import made_from
from clac_jax.evaluation.pool import EvaluationError
from clac_jax.evaluation.validation import Validation
from clac_jax.surgery.mixing import Tried, greedy_soup


@dataclass(frozen=True)
class Soup:
    """A chosen average.

    Attributes:
        names: what the user called the candidates.
        infos: the candidates.
        tried: how they were chosen, in that order.
        measure: name of the measure that decided.
        mode: "max" if larger values of it are better, otherwise "min".
        size: number of validation examples.
        arrays: the average of the chosen ones.
        metrics: the measures of its validation.
    """

    names: Sequence[str]
    infos: Sequence[CheckpointInfo]
    tried: Sequence[Tried]
    measure: str
    mode: str
    size: int
    arrays: Arrays
    metrics: dict[str, float]

    @property
    def chosen(self) -> list[CheckpointInfo]:
        """The checkpoints in the average, best first."""
        return [self.infos[each.number] for each in self.tried if each.is_kept]

    def save(self, workdir: Path) -> str:
        """Saves it as the only checkpoint of a new workdir; returns its folder.

        Raises:
            NotEmptyError, WorkdirError, CheckpointError: see `save_single`.
        """
        weights = _equal(len(self.chosen))
        choice = {
            "measure": self.measure,
            "mode": self.mode,
            "split": "validation",
            "tried": [
                {
                    "checkpoint": str(self.infos[each.number].folder),
                    "own_value": each.own_value,
                    "together": each.together,
                    "kept": each.is_kept,
                }
                for each in self.tried
            ],
        }
        about = made_from(
            f"greedy soup by {self.measure} on validation, {len(self.chosen)} of "
            f"{len(self.tried)} candidates",
            ingredients(self.chosen, weights),
            choice,
        )
        return save_average(workdir, self.chosen, self.arrays, about, self.metrics)


def cook(
    infos: Sequence[CheckpointInfo],
    measure: str | None,
    data_dir: str | None,
    names: Sequence[str],
) -> Soup:
    """Measures checkpoints and their averages on the validation split of the first one's data.

    Args:
        infos: the candidates, which `check_alike` accepts.
        measure: name of the measure that decides; None: the monitor of the first one's config.
        data_dir: folder of the prepared data; None: that of the config.
        names: what to call the candidates.

    Raises:
        EvaluationError: there is no such measure, or no candidate has a finite value.
        UserError: a checkpoint or the data cannot be read.
    """
    options = infos[0].config["checkpoint"]
    name = measure or options["monitor"]
    mode = options["mode"] if name == options["monitor"] else _mode_of(name)
    validation = Validation(infos[0], data_dir)
    own = [validation.measure(read_evaluated(info, model_paths(info))) for info in infos]
    if name not in own[0]:
        known = ", ".join(each for each in own[0] if each != "pool_size")
        raise EvaluationError(
            f"A validation of these checkpoints has no measure {name!r}. Give --measure one of "
            f"{known}."
        )
    found: dict[tuple[int, ...], tuple[Arrays, dict[str, float]]] = {}

    def together(numbers: tuple[int, ...]) -> float:
        chosen = [infos[number] for number in numbers]
        arrays = average(chosen, _equal(len(chosen)))
        found.clear()  # memory for one average
        found[numbers] = arrays, validation.measure(arrays)
        return found[numbers][1][name]

    try:
        tried = greedy_soup([each[name] for each in own], together, mode)
    except ValueError as error:
        raise EvaluationError(
            f"No soup can be made: {error} of {name}. The training of these checkpoints has "
            "diverged; name earlier ones (RUN@step=N)."
        ) from error
    chosen = tuple(each.number for each in tried if each.is_kept)
    if chosen not in found:
        arrays = average([infos[number] for number in chosen], _equal(len(chosen)))
        found[chosen] = arrays, own[chosen[0]]
        if len(chosen) > 1:
            found[chosen] = arrays, validation.measure(arrays)
    return Soup(names, infos, tried, name, mode, validation.size, *found[chosen])


def format_soup(soup: Soup) -> str:
    """The candidates in the order in which they were tried, as a table."""
    width = max(len("candidate"), *(len(name) for name in soup.names))
    lines = [
        f"{soup.measure} on the {soup.size:,} validation examples, "
        f"{'larger' if soup.mode == 'max' else 'smaller'} is better",
        f"{'candidate':<{width}}  {'own value':>9}  {'with it':>8}",
    ]
    for number, each in enumerate(soup.tried):
        name, verdict = soup.names[each.number], "kept" if each.is_kept else "left out"
        together = f"{each.together:>8.4f}" if number else f"{'-':>8}"
        lines.append(f"{name:<{width}}  {each.own_value:>9.4f}  {together}  {verdict}")
    lines.append(f"{'soup':<{width}}  {soup.metrics[soup.measure]:>9.4f}")
    return "\n".join(lines)


def _equal(count: int) -> tuple[float, ...]:
    return (1 / count,) * count


def _mode_of(measure: str) -> str:
    return "min" if measure.endswith(("loss", "mae")) else "max"
