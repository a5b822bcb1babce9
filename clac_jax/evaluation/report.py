"""The files of an evaluation: eval.json, one row per example as parquet, and report.html."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clac_jax
from clac_jax.config.schema import to_plain
from clac_jax.errors import WorkdirError, warn
from clac_jax.evaluation.intervals import CONFIDENCE
from clac_jax.evaluation.page import page
from clac_jax.evaluation.pool import Examples
from clac_jax.evaluation.section import Section
from clac_jax.files.atomic import replacing, write_atomically
from clac_jax.files.json import read_json_object
from clac_jax.files.paths import explain
from clac_jax.stores.errors import NotFoundError
from clac_jax.stores.outputs import output_folder
from clac_jax.stores.store import open_store
from clac_jax.stores.url import is_url

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
EVAL_FILE, REPORT_FILE = "eval.json", "report.html"


def to_json(pool: Examples, sections: Sequence[Section]) -> dict[str, Any]:
    """The content of eval.json: what was evaluated, and the values of each section by name."""
    model, data = pool.model, pool.data
    return {
        "format": FORMAT,
        "clac_jax": clac_jax.__version__,
        "model": {
            "name": model.name,
            "checksum": model.checksum,
            "step": model.step,
            "task": str(model.config.task),
            "config": to_plain(model.config),
        },
        "data": {
            "name": data.name,
            "split": data.split,
            "fingerprint": data.fingerprint,
            "is_that_of_the_training": data.is_own,
            "size": len(pool),
            "text_source": str(model.config.dataset.text_source),
            "max_tokens": int(model.config.text_encoder.max_length),
        },
        "intervals": {
            "confidence": CONFIDENCE,
            "resamples": pool.resampling.resamples,
            "seed": pool.resampling.seed,
        },
        "tasks": {section.name: section.values for section in sections},
    }


def write(out: str | Path, pool: Examples, sections: Sequence[Section]) -> list[str]:
    """Writes all files of an evaluation, replacing those of an earlier one.

    Args:
        out: path of the folder, or its URL in an object store, where `eval.json` is put last.
        pool: what was evaluated.
        sections: the results.

    The sections of an earlier evaluation of the same weights on the same data, with intervals
    computed in the same way, stay in eval.json unless they are among the new ones; the report shows
    the new ones.

    Returns:
        The names of the files.

    Raises:
        WorkdirError: the folder or a file cannot be written.
        StoreError: the folder cannot be uploaded.
    """
    with output_folder(out, "--out", EVAL_FILE) as folder:
        if is_url(out):
            with contextlib.suppress(NotFoundError):  # the first evaluation
                open_store(str(out)).download(EVAL_FILE, folder / EVAL_FILE)
        return _write(folder, pool, sections)


def _write(folder: Path, pool: Examples, sections: Sequence[Section]) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"Cannot write {folder}: {explain(error)}") from error
    tables = {name: table for s in sections for name, table in s.examples.items()}
    paths = [folder / EVAL_FILE, *(folder / f"{name}.parquet" for name in tables)]
    content = to_json(pool, sections)
    content["tasks"] = _kept(paths[0], content) | content["tasks"]
    write_atomically(paths[0], json.dumps(content, indent=1, allow_nan=False) + "\n")
    for path, table in zip(paths[1:], tables.values(), strict=True):
        _write_table(path, table)
    write_atomically(folder / REPORT_FILE, html_of(pool, sections))
    return [*(path.name for path in paths), REPORT_FILE]


def _kept(path: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The sections of the eval.json at `path` that stay; a line names those that do not."""
    try:
        before = read_json_object(path)
        tasks = dict(before["tasks"])
        is_same = before["model"]["checksum"] == content["model"]["checksum"] and all(
            before[name] == content[name] for name in ("format", "data", "intervals")
        )
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError):  # not an evaluation
        is_same, tasks = False, {}
    lost = [name for name in tasks if name not in content["tasks"]]
    if lost and not is_same:
        warn(
            f"{path} was about other weights, data or intervals, and is replaced; to have them "
            f"again, evaluate {', '.join(lost)} too."
        )
    return tasks if is_same else {}


def html_of(pool: Examples, sections: Sequence[Section]) -> str:
    """The report as a self-contained page."""
    return page(f"Evaluation of {pool.model.name}", facts_of(pool), sections)


def facts_of(pool: Examples) -> list[tuple[str, str]]:
    """The header of a report: model, data, and how intervals were computed."""
    model, data, how = pool.model, pool.data, pool.resampling
    known = {
        True: "the same as in the training",
        False: "NOT the data of the training",
        None: "unknown whether the same as in the training",
    }[data.is_own]
    size = f"{len(pool):,} crystals of {len(set(pool.formulas)):,} compositions"
    longest = model.config.text_encoder.max_length
    texts = f"{model.config.dataset.text_source}, cut off after {longest} tokens"
    return [
        ("Model", f"{model.name}, step {model.step:,}"),
        ("Checksum", model.checksum),
        ("Data", f"{data.name}, {data.split} split: {size}"),
        ("Fingerprint", f"{data.fingerprint} ({known})"),
        *([("Texts", texts)] if model.config.task != "property" else []),
        ("Intervals", f"95 % bootstrap, {how.resamples:,} resamples, seed {how.seed}"),
        ("Program", f"clac_jax {clac_jax.__version__}"),
    ]


def _write_table(path: Path, table: pa.Table) -> None:
    import pyarrow.parquet

    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
