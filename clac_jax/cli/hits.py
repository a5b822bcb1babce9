"""The output of a search: a table for the terminal, JSON, CSV, and CIF files."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clac_jax.errors import WorkdirError, counted, shown, warn
from clac_jax.files.atomic import write_atomically
from clac_jax.files.paths import explain
from clac_jax.index.search import Hit, Searcher, TextHit
from clac_jax.index.store import Index
from clac_jax.stores.store import Store

WIDTH = 80
_SHOWN_FIRST = ("crystal_system", "n_atoms", "band_gap", "energy_above_hull")
_UNSAFE = re.compile(r"[^A-Za-z0-9_.+-]+")
_FORMULA = re.compile(r"[=+@\t\r]|-[^\d.]")  # what a spreadsheet would run; as on the page of a map
_CIF_NAME = re.compile(r"\d{2,}-.*\.cif")
_MARK = "# A hit of clac-jax search; SHA-256 of the lines below: "


@dataclasses.dataclass(frozen=True)
class About:
    """The query, as given on the command line."""

    texts: Sequence[str]
    crystals: Sequence[str]
    not_texts: Sequence[str]
    where: str | None


def format_hits(hits: Sequence[Hit], form: str, about: About, searcher: Searcher) -> str:
    """Hits as text.

    Args:
        hits: the hits, best first.
        form: "table", "json" or "csv".
        about: the query.
        searcher: the index and the model.
    """
    if form == "json":
        return _json([dataclasses.asdict(hit) for hit in hits], about, searcher)
    if form == "csv":
        columns = list(dict.fromkeys(name for hit in hits for name in hit.properties))
        rows = [
            [hit.row, hit.id, hit.formula, hit.score, hit.percentile, hit.sentence]
            + [hit.properties.get(name) for name in columns]
            for hit in hits
        ]
        names = ["row", "id", "formula", "score", "percentile", "sentence"]
        return _csv([*names, *columns], rows)
    if not hits:
        return "no crystal meets the conditions\n"
    return _table(hits, about.where or "")


def format_texts(found: Sequence[TextHit], form: str, about: About, searcher: Searcher) -> str:
    """Texts that were found, as text; arguments as for `format_hits`."""
    if form == "json":
        return _json([dataclasses.asdict(hit) for hit in found], about, searcher)
    if form == "csv":
        rows = [[hit.row, hit.id, hit.score, hit.text] for hit in found]
        return _csv(["row", "id", "score", "text"], rows)
    lines = []
    for number, hit in enumerate(found, 1):
        start = f"{number:3}  {hit.score:6.3f}  {_plain(hit.id or '')}".rstrip()
        lines += [start, *_wrapped(hit.text, lines=3)]
    return "\n".join(lines) + "\n" if lines else "no texts\n"


def write_cifs(hits: Sequence[Hit], index: Index, folder: Path) -> list[str]:
    """Writes the crystals of hits as `01-ID-FORMULA.cif`, `02-...`.

    Returns:
        The names of the files.

    Raises:
        WorkdirError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkdirError(f"Cannot write --cif={folder}: {explain(error)}") from error
    digits = max(2, len(str(len(hits))))
    names = []
    for number, hit in enumerate(hits, 1):
        name = _UNSAFE.sub("_", f"{hit.id}-{hit.formula}")[:100]
        names.append(f"{number:0{digits}}-{name}.cif")
        text = index.crystal(hit.row).to_cif(hit.id)
        write_atomically(folder / names[-1], _marked(text.encode()))
    return names


def remove_old_cifs(place: Path | Store, written: Sequence[str]) -> None:
    """Removes the files of earlier searches, unless they were edited since.

    One line says how many; another names files that only look like some, or were edited.

    Args:
        place: the folder, or the store that it is.
        written: the names of the files of this search.

    Raises:
        WorkdirError, StoreError: a file cannot be read or removed.
    """
    unclear, removed = [], 0
    try:
        names = [p.name for p in (place.iterdir() if isinstance(place, Path) else place.list())]
        for name in sorted(set(filter(_CIF_NAME.fullmatch, names)) - set(written)):
            if isinstance(place, Path) and not _is_regular(place / name):
                continue
            content = (
                (place / name).read_bytes() if isinstance(place, Path) else place.get(name).data
            )
            if content != _marked(content.partition(b"\n")[2]):
                unclear.append(name)
                continue
            removed += 1
            if isinstance(place, Path):
                (place / name).unlink()
            else:
                place.delete(name)
    except OSError as error:
        raise WorkdirError(f"Cannot write --cif={place}: {explain(error)}") from error
    if removed:
        print(f"{counted(removed, 'hit')} of earlier searches removed from --cif", file=sys.stderr)
    if unclear:
        some = shown(", ".join(unclear[:3]))
        warn(f"{some} in --cif are not hits of a search, or were edited, and stay.")


def _is_regular(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _marked(content: bytes) -> bytes:
    """The CIF of a hit, after a line that shows whether it was edited since."""
    return f"{_MARK}{hashlib.sha256(content).hexdigest()}\n".encode() + content


def _table(hits: Sequence[Hit], where: str) -> str:
    names = [name for name in _SHOWN_FIRST if any(name in hit.properties for hit in hits)]
    asked = [name for hit in hits for name in hit.properties if re.search(rf"\b{name}\b", where)]
    names = list(dict.fromkeys([*asked, *names]))
    shown_ids = [_plain(hit.id) for hit in hits]
    ids = min(max(map(len, shown_ids)), 18)
    formulas = min(max(*(len(hit.formula) for hit in hits), 7), 18)
    lines = [f"{'':4} {'id':{ids}}  {'formula':{formulas}}  {'score':>6}  {'pctile':>6}"]
    for number, (hit, name) in enumerate(zip(hits, shown_ids, strict=True), 1):
        start = (
            f"{number:3}  {_short(name, ids):{ids}}  {_short(hit.formula, formulas):{formulas}}"
            f"  {hit.score:6.3f}  {hit.percentile:6.2f}  "
        )
        values = (_value(name, hit.properties.get(name)) for name in names)
        lines.append(_short(start + ", ".join(value for value in values if value), WIDTH))
        if hit.sentence:
            lines += _wrapped(hit.sentence, lines=2)
    return "\n".join(lines) + "\n"


def _value(name: str, value: Any) -> str:
    if value is None:
        return ""
    if name == "crystal_system":
        return str(value)
    if name == "n_atoms":
        return f"{value} atoms"
    shown = f"{value:.3g}" if isinstance(value, float) else str(value)
    return f"{name.replace('_', ' ')} {shown}"


def _wrapped(text: str, lines: int) -> list[str]:
    """A text in indented lines that fit the terminal, cut after a number of them."""
    return textwrap.wrap(
        _plain(text),
        WIDTH,
        initial_indent="     ",
        subsequent_indent="     ",
        max_lines=lines,
        placeholder=" ...",
    )


def _plain(text: str) -> str:
    """A text of the data on one line, without characters that would steer a terminal."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _json(hits: list[dict[str, Any]], about: About, searcher: Searcher) -> str:
    content = {
        "query": {
            "texts": list(about.texts),
            "crystals": list(about.crystals),
            "not": list(about.not_texts),
            "where": about.where,
        },
        "model": {"name": searcher.model.name, "checksum": searcher.model.checksum},
        "index": {
            "path": shown(searcher.index.path),
            "checksum": searcher.index.checksum,
            "count": searcher.index.count,
        },
        "hits": hits,
    }
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _safe(value: Any) -> Any:
    """A cell that a spreadsheet reads as a text if it is one."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_safe(value) for value in row] for row in rows)
    return file.getvalue()
