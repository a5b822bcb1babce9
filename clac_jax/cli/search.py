"""`clac-jax search`: the crystals, or the texts, that match a query."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clac_jax.cli.index import MODEL
from clac_jax.errors import UserError, error_reason
from clac_jax.stores.copies import local_copy
from clac_jax.stores.outputs import output_folder
from clac_jax.stores.store import open_store
from clac_jax.stores.url import is_url

if TYPE_CHECKING:
    from clac_jax.index.query import Query
    from clac_jax.index.search import Searcher
    from clac_jax.index.store import Index

FORMATS = ("table", "json", "csv")
_OWN_TEXTS = ""

ANN = (
    "use the approximate index of `clac-jax index build --ann` for queries without --where; worth "
    "it above a million crystals"
)


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `search`."""
    group.add_argument(
        "what",
        metavar="MODEL_OR_INDEX",
        help=f"an index made by `clac-jax embed`; or {MODEL}: the index of its own data set is "
        "made at the first search, and kept",
    )
    group.add_argument(
        "texts", metavar="TEXT", nargs="*", help="what to search for; several are averaged"
    )
    group.add_argument(
        "--crystal",
        metavar="CRYSTAL",
        action="append",
        default=[],
        help="search for crystals similar to this one: a file, or an id of the index; may be "
        "repeated and combined with texts",
    )
    group.add_argument(
        "--not",
        dest="not_texts",
        metavar="TEXT",
        action="append",
        default=[],
        help="what to avoid; may be repeated",
    )
    group.add_argument(
        "--not_weight",
        type=float,
        action="append",
        default=[],
        metavar="WEIGHT",
        help="weight of the negative texts: one for all, or one for each (default: 0.5)",
    )
    group.add_argument("-k", type=int, default=10, help="number of hits (default: %(default)s)")
    group.add_argument(
        "--where",
        metavar="CONDITION",
        help="only crystals that meet a condition, such as \"band_gap > 3 and not has('Pb') and "
        'n_atoms < 20"',
    )
    group.add_argument("--min_score", type=float, help="only hits with at least this cosine")
    group.add_argument(
        "--texts",
        dest="captions",
        nargs="?",
        const=_OWN_TEXTS,
        metavar="FILE",
        help="search for texts instead of crystals: the lines of a file, or without one the texts "
        "of the index",
    )
    group.add_argument("--format", choices=FORMATS, default="table", help="default: %(default)s")
    group.add_argument("--cif", metavar="FOLDER", help="write the hits as CIF files")
    group.add_argument("--model", help=f"where the model of the index is: {MODEL}")
    group.add_argument("--ann", action="store_true", help=ANN)
    group.set_defaults(run=_search)


def _search(options: argparse.Namespace) -> int:
    from clac_jax.cli import hits as hits_lib
    from clac_jax.index.search import Options

    # A wrong k or an empty query is reported before an index is made.
    wanted = Options(options.k, options.where, options.min_score)
    _check(options)
    captions = read_captions(options.captions) if options.captions else None
    if options.captions is not None:
        _refuse_with_texts(options)
    searcher = open_searcher(options.what, options.model, options.where, options.ann)
    query = _query(options, searcher.index)
    about = hits_lib.About(options.texts, options.crystal, options.not_texts, options.where)
    if options.captions is not None:
        found = searcher.texts(query, options.k, captions)
        print(hits_lib.format_texts(found, options.format, about, searcher), end="")
        return 0
    hits = searcher.search(query, wanted)
    print(hits_lib.format_hits(hits, options.format, about, searcher), end="")
    if options.cif:
        with output_folder(options.cif, "--cif", "") as folder:
            written = hits_lib.write_cifs(hits, searcher.index, folder)
        place = open_store(options.cif) if is_url(options.cif) else folder
        hits_lib.remove_old_cifs(place, written)
    return 0


def open_searcher(
    what: str, model_name: str | None, where: str | None = None, use_ann: bool = False
) -> Searcher:
    """The searcher of an index, or of the index of a model's own data set.

    Args:
        what: the folder of an index, or the name of a model.
        model_name: where the model of the index is; None: where the index says.
        where: a condition, checked before a model is loaded or an index is made.
        use_ann: whether to use the approximate index.

    Raises:
        UserError: it is neither, or the model is not that of the index.
    """
    from clac_jax.index import filters
    from clac_jax.index.layout import CONTENTS
    from clac_jax.index.search import Searcher, model_of
    from clac_jax.index.store import Index

    if _is_index(what):
        index = Index(what)
        if where is not None:
            filters.parse(where, index.schema)
        return Searcher(index, model_of(index, model_name), use_ann)
    if model_name is not None:
        raise UserError(
            f"{what} is not an index, and --model names the model of one. Give the folder of an "
            "index, or leave out --model."
        )
    from clac_jax.api import load
    from clac_jax.checkpoint.locate import CheckpointNotFoundError
    from clac_jax.index.own import own_index

    try:
        model = load(what)
    except CheckpointNotFoundError as error:
        raise UserError(f"{what} is not an index (it has no {CONTENTS}), nor a model: {error}") \
            from error  # fmt: skip
    return Searcher(own_index(model, where), model, use_ann)


def _is_index(what: str) -> bool:
    from clac_jax.checkpoint.fetched import split_name
    from clac_jax.index.layout import CONTENTS

    if is_url(what):
        return not split_name(what)[1] and open_store(what).head(CONTENTS) is not None
    return os.path.isfile(os.path.join(os.path.expanduser(what), CONTENTS))


def read_captions(name: str) -> list[str]:
    """The lines of a file that have words.

    Raises:
        UserError: the file cannot be read, or has none.
    """
    path = local_copy(name, "--texts")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--texts={path} cannot be read: {error_reason(error)}. Give a UTF-8 file with one "
            "text per line."
        ) from error
    captions = [line.strip() for line in lines if line.strip()]
    if not captions:
        raise UserError(f"--texts={path} has no texts. Write one per line.")
    return captions


def _refuse_with_texts(options: argparse.Namespace) -> None:
    for flag, value in (("--where", options.where), ("--min_score", options.min_score),
                        ("--cif", options.cif)):  # fmt: skip
        if value is not None:
            raise UserError(f"{flag} is about crystals, and --texts searches for texts. Leave out "
                            "one of them.")  # fmt: skip


def _check(options: argparse.Namespace) -> None:
    from clac_jax.index.query import NOT_WEIGHT, Query

    if options.not_weight and not options.not_texts:
        raise UserError("--not_weight is the weight of a --not, and there is none. Add one.")
    weights = tuple(options.not_weight) or (NOT_WEIGHT,)
    Query(tuple(options.texts), tuple(options.crystal), (), tuple(options.not_texts), weights)


def _query(options: argparse.Namespace, index: Index) -> Query:
    from clac_jax.index.query import NOT_WEIGHT, Query

    files: list[Any] = []
    rows: list[int] = []
    for name in options.crystal:
        if is_url(name) or Path(name).expanduser().exists():
            files.append(name)
        else:
            rows.append(_row_of(index, name))
    return Query(
        tuple(options.texts),
        tuple(files),
        tuple(rows),
        tuple(options.not_texts),
        tuple(options.not_weight) or (NOT_WEIGHT,),
    )


def _row_of(index: Index, name: str) -> int:
    rows = rows_of(index, [name], f"--crystal={name} is neither a file nor")
    return rows[0]


def rows_of(index: Index, names: Sequence[str], problem: str = "") -> list[int]:
    """The rows of crystals by their ids.

    Args:
        index: the index.
        names: ids.
        problem: the start of the message about an id that is not in the index.

    Raises:
        UserError: an id is not in the index.
    """
    rows = []
    for name in names:
        try:
            rows.append(index.row_of(name))
        except UserError as error:
            start = problem or f"{name} is not"
            raise UserError(
                f"{start} an id in {index.path}. Ids there are such as "
                f"{index.take([0], ['id'])['id'][0].as_py()}."
            ) from error
    return rows
