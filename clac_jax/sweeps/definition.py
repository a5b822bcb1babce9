"""A sweep file: read, and checked against the declared config keys before anything runs."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from clac_jax.errors import UserError, one_line
from clac_jax.sweeps.space import Choice, Domain, Range, ordered

SAMPLERS = ("tpe", "cmaes", "grid", "qmc", "random")
# Pruner or sampler -> its options with their defaults.
PRUNERS: dict[str, dict[str, Any]] = {
    "median": {"startup_trials": 5, "warmup_epochs": 0},
    "hyperband": {"min_epochs": 1, "reduction": 3},
    "successive_halving": {"min_epochs": 1, "reduction": 4},
    "wilcoxon": {"p_threshold": 0.1, "startup_epochs": 2},
}
SAMPLER_OPTIONS: dict[str, dict[str, Any]] = {
    "tpe": {"startup_trials": 10},
    "cmaes": {"sigma": 0.2},
    "grid": {"points": 5},
    "qmc": {},
    "random": {},
}
# Option -> its least and its largest value.
BOUNDS: dict[str, tuple[float, float]] = {
    "startup_trials": (0, 1_000_000),
    "warmup_epochs": (0, 1_000_000),
    "min_epochs": (1, 1_000_000),
    "reduction": (2, 1_000_000),
    "p_threshold": (0, 1),
    "startup_epochs": (0, 1_000_000),
    "sigma": (1e-6, 1),  # of a range that is scaled to the length 1
    "points": (1, 10_000),
}
MODES = ("min", "max")
FREE_TO_CHANGE = ("budget", "keep_checkpoints")
"""The names that may be changed in the file of a sweep that has started."""


class SweepFileError(UserError, ValueError):
    """A sweep file cannot be used."""


@dataclass(frozen=True)
class Definition:
    """The content of a sweep file; the attributes are the names in it.

    Attributes:
        config: name or path of the config.
        space: dotted key -> its values.
        overrides: dotted key -> the value that it has in all trials.
        monitor: the validation measure that is compared; "": that of the config's checkpoints.
        mode: "min" or "max": whether small or large values are good; "": as for `monitor`.
        sampler: the name of one and its options, as {"name": "tpe", ...}.
        prune: the same for a pruner; None: every trial runs to its end.
        budget: "trials" and "hours" (of all trials together); at least one of them.
        parallel: trials that run together at most. What trial n tries depends on the results of
            the trials up to n - parallel.
        seed: seed of the sampler.
        keep_checkpoints: number of the best trials that keep their checkpoints; 0: all keep them.
        population: settings of population based training, instead of sampler, prune and budget.
        file: path of the sweep file, for messages.
    """

    config: str = ""
    space: Mapping[str, Domain] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    monitor: str = ""
    mode: str = ""
    sampler: Mapping[str, Any] = field(default_factory=lambda: {"name": "tpe"})
    prune: Mapping[str, Any] | None = None
    budget: Mapping[str, float] = field(default_factory=dict)
    parallel: int = 1
    seed: int = 0
    keep_checkpoints: int = 3
    population: Mapping[str, Any] | None = None
    file: str = field(default="", compare=False)

    def to_plain(self) -> dict[str, Any]:
        """Everything but the path as plain values, by which two files are compared."""
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        del plain["file"]
        plain["space"] = {name: _plain(domain) for name, domain in self.space.items()}
        return dict(_as_json(plain))

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Definition:
        """The inverse of `to_plain`."""
        kinds: dict[str, Any] = {"range": Range, "choice": Choice}
        space = {}
        for name, domain in plain["space"].items():
            facts = {key: value for key, value in domain.items() if key != "kind"}
            if domain["kind"] == "choice":
                facts["values"] = as_tuples(facts["values"])
            facts["when"] = {
                other: [as_tuples(each) for each in wanted] if isinstance(wanted, list) else wanted
                for other, wanted in facts["when"].items()
            }
            space[name] = kinds[domain["kind"]](**facts)
        return cls(**{**plain, "space": space})

    def without_pruner(self) -> Definition:
        """This sweep, with every trial run to its end."""
        return dataclasses.replace(self, prune=None)

    @property
    def direction(self) -> str:
        """The direction of `mode`, as Optuna names it."""
        return "maximize" if self.mode == "max" else "minimize"

    def better(self, one: float, other: float) -> bool:
        """Whether one value of the monitor is better than another."""
        return one > other if self.mode == "max" else one < other

    def best(self, values: list[float]) -> float | None:
        """The best of some values of the monitor; None if there is none, or only NaN."""
        valid = [value for value in values if not math.isnan(value)]
        chosen = max if self.mode == "max" else min
        return chosen(valid) if valid else None


def _plain(domain: Domain) -> dict[str, Any]:
    return {"kind": type(domain).__name__.lower(), **dataclasses.asdict(domain)}


def _as_json(value: Any) -> Any:
    """A value with lists for tuples and texts for what JSON has no type for."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(each) for each in value]
    return value if isinstance(value, str | int | float | bool | None) else repr(value)


def as_tuples(value: Any) -> Any:
    """A value of a config key or from JSON, with tuples for its lists, also inside of others."""
    return tuple(map(as_tuples, value)) if isinstance(value, list | tuple) else value


def sweep_folder() -> Path:
    """The folder of the shipped sweep files."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "sweep_files"
    return installed if installed.is_dir() else package.parent / "sweeps"


def read(name: str) -> Definition:
    """The content of a sweep file; its content is not checked against the config yet.

    Args:
        name: path of the file, or the name of a shipped one ("lr").

    Raises:
        SweepFileError: it cannot be read, or has a name or value that is not allowed.
    """
    path = Path(name)
    shipped = sorted(file.stem for file in sweep_folder().glob("[!_]*.py"))
    if not path.exists() and name in shipped:
        path = sweep_folder() / f"{name}.py"
    names = _run(path, shipped)
    known = {each.name for each in dataclasses.fields(Definition)} - {"file"}
    for given in names:
        if given not in known:
            near = difflib.get_close_matches(given, sorted(known), n=1)
            advice = (
                f"Did you mean {near[0]!r}?"
                if near
                else (f"It may set {', '.join(sorted(known))}; start your own names with _.")
            )
            raise SweepFileError(f"{path} sets {given!r}, which is not a part of a sweep. {advice}")
    return _checked(Definition(**_with_names(names, path), file=str(path)))


def _run(path: Path, shipped: list[str]) -> dict[str, Any]:
    """The values that a sweep file sets, without what it imports and defines."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SweepFileError(
            f"The sweep file {path} cannot be read: {reason}. Give the path of one, or the name of "
            f"a shipped one: {', '.join(shipped)}."
        ) from error
    names: dict[str, Any] = {"__file__": str(path), "__name__": "sweep"}
    try:
        exec(compile(source, str(path), "exec"), names)
    except Exception as error:  # the file is a program and may raise any type
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(path, error)
        raise SweepFileError(
            f"{path}, line {line} cannot be run: {type(error).__name__}: {one_line(error)}. "
            "Fix that line."
        ) from error
    kinds = types.ModuleType | types.FunctionType | type
    return {
        name: value
        for name, value in names.items()
        if not name.startswith("_") and not isinstance(value, kinds) and name != "annotations"
    }


def _line_in(path: Path, error: Exception) -> int:
    """The line of a file that has raised an error."""
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _with_names(names: dict[str, Any], path: Path) -> dict[str, Any]:
    """The values of a file, with {"name": NAME} for the name of a sampler or pruner."""
    tables = {"sampler": SAMPLER_OPTIONS, "prune": PRUNERS}
    for part, table in tables.items():
        value = names.get(part)
        if value is None:
            continue
        value = {"name": value} if isinstance(value, str) else value
        name = value.get("name") if isinstance(value, Mapping) else None
        if name not in table:
            raise SweepFileError(
                f"{path}: {part} is {one_line(repr(names[part]))}. Write one of "
                f'{", ".join(table)}, or dict(name="{next(iter(table))}", OPTION=...).'
            )
        for option, setting in value.items():
            default = table[name].get(option, name if option == "name" else None)
            if default is None:
                options = ", ".join(table[name]) or "none"
                raise SweepFileError(
                    f"{path}: {part} {name!r} has no option {one_line(repr(option))}. It has: "
                    f"{options}."
                )
            if option != "name" and not _is_allowed(option, setting, default):
                low, high = BOUNDS[option]
                kind = "whole number" if isinstance(default, int) else "number"
                raise SweepFileError(
                    f"{path}: {part} {name!r} has {option}={one_line(repr(setting))}. Give a "
                    f"{kind} from {low:,} to {high:,}, such as {default}."
                )
        names[part] = dict(value)
    return names


def _is_allowed(option: str, setting: Any, default: float) -> bool:
    kinds = int if isinstance(default, int) else (int, float)
    low, high = BOUNDS[option]
    return isinstance(setting, kinds) and not isinstance(setting, bool) and low <= setting <= high


def _checked(given: Definition) -> Definition:
    """The definition, if each part of it can be used on its own.

    Raises:
        SweepFileError: one cannot.
    """

    def fail(what: str) -> NoReturn:
        raise SweepFileError(f"{given.file}: {what}")

    if not isinstance(given.config, str) or not given.config:
        fail('config is missing. Name a config, config = "base", or the path of one.')
    for part in ("space", "overrides", "budget"):
        if not isinstance(getattr(given, part), Mapping):
            fail(f"{part} is {one_line(repr(getattr(given, part)))}, and must be a dict.")
    for name, domain in given.space.items():
        if not isinstance(domain, Range | Choice):
            fail(
                f'the space of "{name}" is {one_line(repr(domain))}. Write log(LOW, HIGH), '
                "uniform(LOW, HIGH), integer(LOW, HIGH) or choice(A, B, ...)."
            )
        if problem := domain.problem():
            fail(f'the space of "{name}" cannot be used. {problem}')
        if name in given.overrides:
            fail(f'"{name}" is in the space and in overrides. Remove one of them.')
    if given.space and not ordered(given.space):
        fail('the keys of the space depend on each other in a circle. Remove one "when".')
    for part, least in (("parallel", 1), ("seed", 0), ("keep_checkpoints", 0)):
        value = getattr(given, part)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            fail(f"{part} is {one_line(repr(value))}. Give a whole number, {least} or more.")
    if given.mode not in ("", *MODES):
        fail(f"mode is {one_line(repr(given.mode))}. Write {' or '.join(map(repr, MODES))}.")
    if given.population is not None:
        return given
    if not given.space:
        fail('space is empty. Give at least one key: space = {"learning_rate": log(1e-5, 1e-2)}.')
    for name, amount in given.budget.items():
        if name not in ("trials", "hours"):
            fail(f"budget has {one_line(repr(name))}. It may have trials and hours.")
        is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
        if not is_number or not amount > 0 or (name == "trials" and not isinstance(amount, int)):
            fail(f"budget has {name}={one_line(repr(amount))}. Give a number above 0.")
    if not given.budget and given.sampler["name"] != "grid":
        fail("budget is missing. Write budget = dict(trials=20), dict(hours=8), or both.")
    return given
