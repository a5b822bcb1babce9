"""`clac-jax serve`: answers searches of an index over HTTP."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from clac_jax.cli.index import MODEL
from clac_jax.cli.search import ANN, open_searcher
from clac_jax.errors import UserError, counted, shown, warn
from clac_jax.stores.copies import local_copy

_PAGE = "index.html"


def add(group: argparse.ArgumentParser) -> None:
    """Adds the arguments of `serve`."""
    group.add_argument(
        "what",
        metavar="MODEL_OR_INDEX",
        help=f"an index made by `clac-jax embed`, or as for `clac-jax search` {MODEL}",
    )
    group.add_argument("--model", help=f"where the model of the index is: {MODEL}")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on; the default is reached from this machine only, as there is no "
        "password (default: %(default)s)",
    )
    group.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one (default: %(default)s)"
    )
    group.add_argument(
        "--map",
        metavar="FOLDER",
        help="a map made by `clac-jax map` (default: the folder map/ of the index, if it exists)",
    )
    group.add_argument("--ann", action="store_true", help=ANN)
    group.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> int:
    from clac_jax.serve import server
    from clac_jax.serve.app import Settings

    server.require_packages()
    given = local_copy(options.map, "--map") if options.map else None
    if given is not None and not (given / _PAGE).is_file():
        raise UserError(f"--map={given} has no {_PAGE}. Give a folder made by `clac-jax map`.")
    asked = options.host.removeprefix("[").removesuffix("]")  # as an IPv6 address is in a URL
    listening = server.listen(asked, options.port)  # fails before the model is loaded
    with listening:
        searcher = open_searcher(options.what, options.model, use_ann=options.ann)
        folder: Path | None = given or searcher.index.path / "map"
        if folder is not None and not (folder / _PAGE).is_file():
            folder = None
        server.warm_up(searcher)
        host, port = listening.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        if not server.is_loopback(asked):
            warn(f"Anyone who can reach {address}:{port} can search this index.")
        crystals = counted(searcher.index.count, "crystal")
        print(f"{crystals} of {shown(searcher.index.path)}", file=sys.stderr)
        print(f"http://{address}:{port}/", flush=True)
        settings = Settings(folder, server.host_names(asked))
        server.serve(searcher, settings, listening)
    print("stopped.", file=sys.stderr)
    return 0
