"""The results of an evaluation, read back: eval.json, the rows per example, config and curves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.checkpoint.fetched import fetch_run, fetch_run_files, split_name
from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.config.schema import with_defaults
from clac_jax.errors import UserError, one_line
from clac_jax.evaluation.report import EVAL_FILE, FORMAT, table_names
from clac_jax.evaluation.trained import EVAL, step_folder_name
from clac_jax.files.json import read_json_object
from clac_jax.files.paths import local_path
from clac_jax.reporting.metrics_file import read_rows
from clac_jax.stores.copies import local_copy
from clac_jax.stores.store import open_store
from clac_jax.stores.url import is_url

if TYPE_CHECKING:
    import pyarrow as pa


class ResultsError(UserError):
    """The results of an evaluation are missing, or cannot be read or compared."""


@dataclass(frozen=True)
class Results:
    """One model with its evaluation, config and curves.

    Attributes:
        name: as requested by the user.
        folder: folder of its evaluation; None if there is none.
        content: content of eval.json; {} if there is none.
        config: complete nested config of its run.
        rows: rows of metrics.jsonl; empty for a model outside a run.
    """

    name: str
    folder: Path | None
    content: dict[str, Any]
    config: dict[str, Any]
    rows: list[dict[str, Any]]

    @property
    def is_evaluated(self) -> bool:
        """Whether there is an evaluation."""
        return self.folder is not None

    @property
    def step(self) -> int | None:
        """Step of the evaluated checkpoint."""
        return self.content["model"]["step"] if self.content else None

    def examples(self) -> Mapping[str, pa.Table]:
        """Name -> table of one row per example.

        Raises:
            ResultsError: a file cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet

        if self.folder is None:
            return {}
        tables = {}
        for name in table_names(self.content, os.listdir(self.folder)):
            path = self.folder / f"{name}.parquet"
            try:
                tables[name] = pyarrow.parquet.read_table(path)
            except (OSError, pa.ArrowException) as error:
                raise ResultsError(
                    f"Cannot read {path}: {one_line(error)} Run `clac-jax evaluate` again."
                ) from error
        return tables


def open_results(name: str, split: str) -> Results:
    """Finds the evaluation of a model.

    Args:
        name: a run or one of its checkpoints, as for `clac_jax.load`, or the folder of an
            evaluation. A run without "@" means its newest checkpoint or, if that has not been
            evaluated, the newest one that has.
        split: the evaluated split; not used for the folder of an evaluation.

    Raises:
        CheckpointNotFoundError: there is neither a run nor an evaluation of that name.
        ResultsError: a file cannot be read.
    """
    folder = _evaluation_copy(name) if is_url(name) else local_path(name, "RUN")
    if (folder / EVAL_FILE).is_file():
        content = _read(folder / EVAL_FILE)
        run = folder.resolve().parent.parent
        is_in_run = folder.resolve().parent.name == EVAL and (run / CHECKPOINTS).is_dir()
        rows = read_rows(run / "metrics.jsonl") if is_in_run else []
        return Results(name, folder, content, with_defaults(content["model"]["config"]), rows)
    try:
        info = locate(name)
    except CheckpointNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{error} The folder of an evaluation (of --out) can be named as well."
        ) from error
    run = Path(info.folder).parent.parent
    fetch_run_files(run, EVAL)
    evaluated = run / EVAL / step_folder_name(info.step, split)
    is_run = not split_name(name)[1] if is_url(name) else folder.is_dir()
    if not (evaluated / EVAL_FILE).is_file() and is_run:
        evaluated = next(_evaluations(run, split), evaluated)
    rows = read_rows(run / "metrics.jsonl")
    if not (evaluated / EVAL_FILE).is_file():
        return Results(name, None, {}, with_defaults(info.config), rows)
    content = _read(evaluated / EVAL_FILE)
    return Results(name, evaluated, content, with_defaults(content["model"]["config"]), rows)


def _evaluation_copy(url: str) -> Path:
    """The local copy of an evaluation in an object store; missing if the URL names a run."""
    url = url.strip().rstrip("/")
    run, _, rest = url.rpartition(f"/{EVAL}/")
    if run and rest and "/" not in rest:
        folder = fetch_run(run) / EVAL / rest
        fetch_run_files(folder.parent.parent, f"{EVAL}/{rest}")
        return folder
    is_evaluation = not split_name(url)[1] and open_store(url).head(EVAL_FILE) is not None
    return local_copy(url, "RUN") if is_evaluation else Path(os.devnull)


def _evaluations(run: Path, split: str) -> Iterator[Path]:
    """Folders of the evaluations of a split, newest step first."""
    steps = [path.name.split("-")[0] for path in (run / EVAL).glob("*")]
    for step in sorted({int(step) for step in steps if step.isdecimal()}, reverse=True):
        folder = run / EVAL / step_folder_name(step, split)
        if (folder / EVAL_FILE).is_file():
            yield folder


def _read(path: Path) -> dict[str, Any]:
    try:
        content = read_json_object(path)
        if content["format"] != FORMAT:
            raise ValueError(
                f"its format is {content['format']!r}, and this version reads {FORMAT}"
            )
        for name, kind in (("model", dict), ("data", dict), ("tasks", dict)):
            if not isinstance(content[name], kind):
                raise ValueError(f"{name!r} is not an object")
        if not isinstance(content["model"]["config"], dict):
            raise ValueError("it has no config")
        return content
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else one_line(error)
        raise ResultsError(
            f"Cannot read {path}: {reason}. Run `clac-jax evaluate` again."
        ) from error
