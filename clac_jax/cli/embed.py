"""`clac-jax embed`: makes an index of crystals."""

from __future__ import annotations

import argparse

from clac_jax.cli.index import MODEL, add_source_flags, report, source_options
from clac_jax.cli.stopping import run_until_stopped
from clac_jax.index.plan import SHARD_ROWS

_CRYSTALS = (
    "files of crystals (CIF; POSCAR and others where ASE is installed), folders of them, tables "
    "(csv, json, jsonl, parquet, with the columns of a training table), or the bundled data set: "
    "materials_project_mini, or one split of it, materials_project_mini:test"
)


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `embed`."""
    group.add_argument("model", metavar="MODEL", help=MODEL)
    group.add_argument("crystals", metavar="CRYSTALS", nargs="+", help=_CRYSTALS)
    group.add_argument(
        "--out",
        required=True,
        metavar="FOLDER",
        help="the folder of the index; the same command again resumes what was interrupted",
    )
    add_source_flags(group)
    group.add_argument(
        "--no_texts", action="store_true", help="do not embed the texts of the crystals"
    )
    group.add_argument(
        "--shard_rows",
        type=int,
        default=SHARD_ROWS,
        help="vectors per file (default: %(default)s)",
    )
    group.add_argument(
        "--shard",
        type=_share,
        default=(1, 1),
        metavar="I/N",
        help="on N machines with a common file system: the share of this one, 1/N to N/N; the last "
        "to finish joins the parts",
    )
    group.set_defaults(run=_embed)


def _embed(options: argparse.Namespace) -> int:
    import clac_jax
    from clac_jax.index.build import embed
    from clac_jax.index.plan import EmbedOptions

    model = clac_jax.load(options.model)
    chosen = EmbedOptions(
        shard_rows=options.shard_rows,
        texts=not options.no_texts,
        on_bad=options.on_bad,
        machine=options.shard,
        sources=source_options(options, model),
    )

    def build() -> None:
        index = embed(model, options.crystals, options.out, chosen)
        if index is not None:
            report(index)

    return run_until_stopped(build, "run the same command to resume")


def _share(text: str) -> tuple[int, int]:
    number, _, count = text.partition("/")
    try:
        return int(number), int(count)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form 3/16") from error
