"""The files of an evaluation: eval.json, one row per example as parquet, and report.html."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
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
from clac_jax.stores.store import Store, open_store
from clac_jax.stores.url import is_url

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 1
EVAL_FILE, REPORT_FILE = "eval.json", "report.html"
_TABLE = ".parquet"


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
        "tables": sorted(name for section in sections for name in section.examples),
    }


def write(out: str | Path, pool: Examples, sections: Sequence[Section]) -> list[str]:
    """Writes all files of an evaluation, replacing those of an earlier one.

    Args:
        out: path of the folder, or its URL in an object store, where `eval.json` is put last.
        pool: what was evaluated.
        sections: the results.

    The sections of an earlier evaluation of the same weights on the same data, with intervals
    computed in the same way, stay in eval.json unless they are among the new ones, and so do their
    tables; the report shows the new ones.

    Returns:
        The names of the files.

    Raises:
        WorkdirError: the folder or a file cannot be written.
        StoreError: the folder cannot be uploaded.
    """
    with output_folder(out, "--out", EVAL_FILE) as folder:
        if not is_url(out):
            return _write(folder, pool, sections, folder)[0]
        store = open_store(str(out))
        with contextlib.suppress(NotFoundError):  # the first evaluation
            store.download(EVAL_FILE, folder / EVAL_FILE)
        names, stale = _write(folder, pool, sections, store)
    for name in stale:
        store.delete(name)
    return names


def table_names(content: dict[str, Any], present: Iterable[str]) -> list[str]:
    """The tables of rows per example that an evaluation has, without their suffix.

    Args:
        content: the content of its eval.json.
        present: the names of the files next to it. If eval.json does not list its tables, as those
            of earlier versions do not, all that are there are its own.
    """
    there = {name.removesuffix(_TABLE) for name in present if name.endswith(_TABLE)}
    listed = content.get("tables")
    return sorted(there if not isinstance(listed, list) else there.intersection(map(str, listed)))


def _write(
    folder: Path, pool: Examples, sections: Sequence[Section], place: Path | Store
) -> tuple[list[str], list[str]]:
    """Writes the files into a folder, for a folder or store that may have an earlier evaluation.

    Returns:
        The names of the files; and those of the tables of the earlier evaluation that are not among
        them any more, of which those in the folder are deleted.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = [p.name for p in (place.iterdir() if isinstance(place, Path) else place.list())]
        tables = {name: table for s in sections for name, table in s.examples.items()}
        content = to_json(pool, sections)
        before, is_same = _before(folder / EVAL_FILE, content)
        is_listed = isinstance(before.get("tables"), list)
        old = table_names(before, present) if is_same or is_listed else []
        stale = [] if is_same else [f"{name}{_TABLE}" for name in old if name not in tables]
        if is_same:
            content["tasks"] = before["tasks"] | content["tasks"]
            content["tables"] = sorted({*old, *tables})
        else:  # at no instant does the old eval.json stand next to new tables
            (folder / EVAL_FILE).unlink(missing_ok=True)
        for name in stale:
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise WorkdirError(f"Cannot write {folder}: {explain(error)}") from error
    for name, table in tables.items():
        _write_table(folder / f"{name}{_TABLE}", table)
    write_atomically(folder / EVAL_FILE, json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_atomically(folder / REPORT_FILE, html_of(pool, sections))
    return [EVAL_FILE, *(f"{name}{_TABLE}" for name in tables), REPORT_FILE], stale


def _before(path: Path, content: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The eval.json at `path`, and whether its sections stay; a line names those that do not."""
    try:
        before = read_json_object(path)
        tasks = dict(before["tasks"])
        is_same = before["model"]["checksum"] == content["model"]["checksum"] and all(
            before[name] == content[name] for name in ("format", "data", "intervals")
        )
    except (OSError, ValueError, LookupError, TypeError):  # none, or not an evaluation
        return {}, False
    lost = [name for name in tasks if name not in content["tasks"]]
    if lost and not is_same:
        warn(
            f"{path} was about other weights, data or intervals, and is replaced; to have them "
            f"again, evaluate {', '.join(lost)} too."
        )
    return before, is_same


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
