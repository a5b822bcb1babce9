"""`clac-jax map`: the map of an index, as a page, figures, and files of other programs."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from clac_jax.errors import UserError, counted, shown
from clac_jax.files.paths import check_place
from clac_jax.stores.store import Store, open_store
from clac_jax.stores.url import is_url

if TYPE_CHECKING:
    from clac_jax.index.store import Index
    from clac_jax.map.data import MapData

LAYOUTS = ("pca", "umap")


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `map`."""
    group.add_argument("index", metavar="INDEX", help="a folder made by `clac-jax embed`")
    group.add_argument(
        "--out",
        metavar="FOLDER",
        help="the folder of the page: open index.html in it with a browser, by a double click or "
        "with `clac-jax serve`; an older map there is replaced",
    )
    group.add_argument(
        "--layout",
        choices=LAYOUTS,
        default="pca",
        help='principal components, or UMAP, which shows clusters (pip install "clac-jax[umap]"; '
        "default: %(default)s)",
    )
    group.add_argument(
        "--seed", type=int, default=42, help="the seed of UMAP (default: %(default)s)"
    )
    group.add_argument("--png", metavar="FILE", help="draw figures for a paper, 300 dpi")
    group.add_argument(
        "--colour",
        metavar="COLUMN,...",
        help="columns that colour the figures, one file each: family (of compounds), "
        "crystal_system, own_rank (of a crystal's own text), modality (crystal or text), element:O "
        "or any property of the index (default: family; similarity with --query)",
    )
    group.add_argument(
        "--query",
        metavar="TEXT",
        help="colour a figure by the similarity of all crystals to this text (--colour=similarity)",
    )
    group.add_argument(
        "--model", metavar="MODEL", help="where the model of the index is, for --query"
    )
    group.add_argument(
        "--chemiscope", metavar="FILE", help="write an input of chemiscope, .json or .json.gz"
    )
    group.add_argument(
        "--parquet",
        metavar="FILE",
        help="write a table for embedding-atlas, with projection_x, projection_y and neighbors",
    )
    group.set_defaults(run=_map)


def _map(options: argparse.Namespace) -> int:
    targets = {
        flag: check_place(value, f"--{flag}")
        for flag in ("out", "png", "chemiscope", "parquet")
        if (value := getattr(options, flag)) is not None
    }
    if not targets:
        raise UserError(
            "There is nothing to write. Add --out FOLDER for the page, or --png, --chemiscope or "
            "--parquet with a file."
        )
    for flag in ("colour", "query"):
        if getattr(options, flag) is not None and "png" not in targets:
            raise UserError(f"--{flag} colours the figures of --png. Add --png FILE, or remove it.")

    from clac_jax.index.store import Index
    from clac_jax.map.data import read
    from clac_jax.map.page import PAGE
    from clac_jax.stores.outputs import output_file, output_folder

    index = Index(options.index)
    data = read(index, options.layout, options.seed)
    if is_url(targets.get("out", "")):
        _require_free(open_store(targets["out"]))
    for flag, target in targets.items():
        named = f"--{flag}"
        with (
            output_folder(target, named, PAGE) if flag == "out" else output_file(target, named)
        ) as path:
            if flag == "png":
                lines = _figures(path, data, index, options)
            else:
                lines = _write(flag, path, data)
            lines = [shown(line) for line in lines]
        for line in lines:
            print(line)
    return 0


def _require_free(store: Store) -> None:
    """Checks that a folder in an object store is empty or a map."""
    from clac_jax.index.layout import MAP_HEAD, is_head_of_map
    from clac_jax.stores.errors import NotFoundError

    head = b""
    with contextlib.suppress(NotFoundError):
        head = store.get(MAP_HEAD).data
    if not is_head_of_map(head) and store.list():
        raise UserError(f"--out={store.url} is not empty and is not a map. Choose a new folder.")


def _figures(path: Path, data: MapData, index: Index, options: argparse.Namespace) -> list[str]:
    """Draws the figures; returns their names."""
    from clac_jax.map.columns import FAMILY, SIMILARITY
    from clac_jax.map.data import similarity
    from clac_jax.map.png import write_pngs

    colour = options.colour or (FAMILY if options.query is None else SIMILARITY)
    if options.query is not None:
        from clac_jax.index.search import model_of

        vector = model_of(index, options.model).embed_texts([options.query])[0]
        data = dataclasses.replace(data, columns=[*data.columns, similarity(data, vector)])
    colours = [name.strip() for name in colour.split(",") if name.strip()]
    return [str(file) for file in write_pngs(data, path, colours)]


def _write(flag: str, path: Path, data: MapData) -> list[str]:
    """Writes one of the other outputs; returns what to print."""
    from clac_jax.map import exports, page

    if flag == "chemiscope":
        exports.write_chemiscope(data, path)
    elif flag == "parquet":
        exports.write_atlas(data, path)
    else:
        page.write_page(data, path)
        return [
            f"{path / page.PAGE}: {counted(len(data.ids), 'crystal')} and "
            f"{counted(len(data.text_rows), 'text')}; open it in a browser"
        ]
    return [str(path)]
