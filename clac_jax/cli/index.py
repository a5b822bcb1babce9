"""`clac-jax index`: commands on an index of crystals."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from clac_jax.cli.command import commands
from clac_jax.cli.stopping import run_until_stopped
from clac_jax.datasets.options import ON_FORMULA_MISMATCH
from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import UserError, counted, shown
from clac_jax.index.plan import ON_BAD

if TYPE_CHECKING:
    from clac_jax.index.sources import SourceOptions
    from clac_jax.index.store import Index

EXIT_TROUBLE = 1
"""Exit code of a command that succeeded and found damage."""

MODEL = (
    "a run (RUN, RUN@best, RUN@best=2, RUN@last, RUN@step=5000), a published folder, "
    "hf:OWNER/NAME, or mini, the pretrained model of the package"
)


def add(group: argparse.ArgumentParser) -> None:
    """Adds the `index` commands."""
    command = commands(group)
    info = command("info", _info, "show what an index holds and what it was made from")
    check = command("check", _check, "compare every byte with the checksums")
    for parser in (info, check):
        parser.add_argument("index", metavar="INDEX", help="a folder made by `clac-jax embed`")
        parser.add_argument("--json", action="store_true", help="print JSON")
    more = command("add", _add, "add crystals to an index")
    more.add_argument("index", metavar="INDEX")
    more.add_argument("crystals", metavar="CRYSTALS", nargs="+", help="as for `clac-jax embed`")
    more.add_argument(
        "--model", help=f"{MODEL} (default: that which the index says it was made by)"
    )
    add_source_flags(more)
    build = command("build", _build, "build an approximate index, for more than a million crystals")
    build.add_argument("index", metavar="INDEX")
    build.add_argument("--ann", action="store_true", required=True, help="by FAISS (extra [ann])")
    build.add_argument(
        "--kind",
        choices=("flat", "sq8"),
        default="flat",
        help="float32 vectors, or one byte per component (default: %(default)s)",
    )
    build.add_argument(
        "--lists",
        type=int,
        default=0,
        help="inverted lists (default: 4 sqrt(n), as FAISS recommends)",
    )
    build.add_argument(
        "--nprobe",
        type=int,
        default=0,
        help="lists that a query visits (default: the fewest with a recall of 0.99 on a sample)",
    )
    build.add_argument("--seed", type=int, default=0, help="of the clustering (default: 0)")
    export = command("export", _export, "copy an index to a vector database")
    export.add_argument("index", metavar="INDEX")
    export.add_argument(
        "--to",
        nargs=2,
        required=True,
        metavar=("DATABASE", "URI"),
        help="lancedb FOLDER_OR_URI; or qdrant URL (its key is read from QDRANT_API_KEY), or "
        "qdrant path:FOLDER for its embedded engine",
    )
    export.add_argument("--name", default="", help="the new table (default: the folder's name)")


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags on how crystals are read."""
    parser.add_argument(
        "--on_bad",
        default=ON_BAD[0],
        choices=ON_BAD,
        help="stop at crystals that cannot be used, or leave them out and list them in "
        "refused.jsonl (default: %(default)s)",
    )
    parser.add_argument(
        "--on_formula_mismatch",
        default=ON_FORMULA_MISMATCH[0],
        choices=ON_FORMULA_MISMATCH,
        help="refuse CIFs whose sites are not the atoms of their formula sum, or take them as they "
        "are (default: %(default)s)",
    )
    parser.add_argument(
        "--data_dir",
        default="data",
        help="the folder of the prepared data sets (default: %(default)s)",
    )


def source_options(options: argparse.Namespace, model: Any) -> SourceOptions:
    """The options for reading crystals, from the flags and the source of the model's texts."""
    from clac_jax.index.sources import SourceOptions

    return SourceOptions(
        data_dir=options.data_dir,
        text_source=model.config.dataset.text_source,
        on_formula_mismatch=options.on_formula_mismatch,
    )


def report(index: Index) -> None:
    """Prints what an index holds, with the number of refused crystals."""
    refused = sum(data["refused"] for data in index.info["data"])
    texts = " with their texts" if index.has_texts else ""
    crystals = counted(index.count, "crystal")
    print(f"{shown(index.path)}: {crystals}{texts}, {index.dim} dimensions")
    for data in index.info["data"]:
        if data["refused"]:
            listing = shown(index.path / data["refused_in"])
            print(f"  {data['refused']:,} refused, listed in {listing}")
    if not refused:
        print("  none refused")


def _info(options: argparse.Namespace) -> int:
    from clac_jax.index.store import Index

    index = Index(options.index)
    if options.json:
        print(json.dumps({"checksum": index.checksum, **index.info}, indent=1))
        return 0
    model = index.info["model"]
    size = sum(facts["bytes"] for facts in index.files.values())
    report(index)
    print(f"  model       {model['name']}, step {model['step']}, checksum {model['checksum'][:12]}")
    for data in index.info["data"]:
        names = ", ".join(data["names"])
        print(f"  data        {names}: {data['count']:,}, fingerprint {data['fingerprint'][:12]}")
    print(f"  columns     {', '.join(index.columns)}")
    print(f"  files       {len(index.files)}, {size / 2**20:.1f} MiB")
    print(f"  written by  {index.info['written_by']}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from clac_jax.index.store import Index

    index = Index(options.index)
    problems = index.check()
    if options.json:
        print(json.dumps(problems, indent=1))
    else:
        crystals = counted(index.count, "crystal")
        print("\n".join(problems) or f"{shown(index.path)}: intact, {crystals}")
    return EXIT_TROUBLE if problems else 0


def _add(options: argparse.Namespace) -> int:
    import clac_jax
    from clac_jax.index.build import add
    from clac_jax.index.plan import EmbedOptions
    from clac_jax.index.store import Index

    name = options.model or Index(options.index).info["model"]["name"]
    try:
        model = clac_jax.load(name)
    except UserError as error:
        if options.model:
            raise
        raise UserError(
            f"The model of the index, {name}, cannot be loaded: {error} Name it with --model."
        ) from error
    chosen = EmbedOptions(on_bad=options.on_bad, sources=source_options(options, model))
    return run_until_stopped(
        lambda: report(add(model, options.index, options.crystals, chosen)),
        "run the same command to resume",
    )


def _build(options: argparse.Namespace) -> int:
    from clac_jax.index.ann import AnnOptions, build_ann
    from clac_jax.index.store import Index
    from clac_jax.index.stored import working_folder

    chosen = AnnOptions(options.kind, options.lists, options.nprobe, options.seed)
    with working_folder(options.index, "INDEX") as folder:
        index = Index(folder)
        with Workdir(folder, "INDEX"):
            facts = build_ann(index, chosen)
    size = facts["file"]["bytes"] / 2**20
    lists, count = facts["lists"], facts["count"]
    print(f"{shown(index.path)}: {lists} lists of {count:,} crystals, {size:.1f} MiB")
    print(f"  recall of the exact top 10, {facts['queries']} queries:")
    for nprobe, recall in sorted(facts["recall"].items(), key=lambda item: int(item[0])):
        used = "  (used)" if int(nprobe) == facts["nprobe"] else ""
        print(f"    nprobe {nprobe:>5}  {recall:.3f}{used}")
    return 0


def _export(options: argparse.Namespace) -> int:
    from clac_jax.index.export import export
    from clac_jax.index.store import Index

    target, uri = options.to
    count = export(Index(options.index), target, uri, options.name)
    print(f"{counted(count, 'crystal')} written to {target} {uri}")
    return 0
