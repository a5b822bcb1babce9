"""`clac-jax`: the commands, from training to search."""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence

import clac_jax
from clac_jax.cli.console import output_failure, protect_output
from clac_jax.cli.stopping import STOPPED, leave_now, run_until_stopped
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.files.paths import explain

# Group -> description. `train` has its own flags; of the others, only the module of the requested
# group is imported, so that inspecting a checkpoint needs neither JAX nor the data.
GROUPS = {
    "train": "train a model, or resume its training",
    "run": "train unattended: start again after crashes, hangs and pre-emption",
    "sweep": "search for the best values of config keys by many trials",
    "evaluate": "measure a trained model, with intervals and baselines",
    "compare": "say which evaluated model is better, and how sure that is",
    "embed": "make an index of crystals, to be searched",
    "index": "look at, check and extend an index of crystals",
    "search": "find crystals by words, by a crystal, or by both",
    "similarity": "compare descriptions with crystals by name",
    "map": "draw an index as a map: a page, or figures",
    "serve": "answer searches of an index over HTTP",
    "publish": "write a model as a folder to keep or share",
    "data": "prepare the data that runs read",
    "goodput": "show how much of a run's time went into training",
    "replay": "compute a step of a run again, and look into it",
    "bisect": "find the first step at which two runs differ, and why",
    "blame": "list the steps in which an example was used",
    "prove": "check that a run is what it says, and sign it",
    "ckpt": "look at, compare, check and manage checkpoints",
    "import": "import what other programs have trained",
}
# Group -> module of clac_jax.cli, where the names differ; "train" is not among argparse's commands.
MODULES = {name: name for name in GROUPS if name != "train"} | {"import": "imports"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        from clac_jax.cli import train

        train.run(arguments[1:])
    options = _parser(arguments[0] if arguments else "").parse_args(arguments)
    try:
        code: int = options.run(options)
        return code
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code


def run(argv: Sequence[str] | None = None) -> None:
    """The entry point `clac-jax`: `main`, which a signal stops with a line and no traceback.

    An error is printed if the output could not be written.
    """
    protect_output()
    code = run_until_stopped(lambda: main(argv))
    failure = output_failure()
    if failure is not None and failure.errno != errno.EPIPE:  # `... | head` ended normally
        print(f"error: Cannot write the output: {explain(failure)}", file=sys.stderr)
        code = code or EXIT_USER_ERROR
    if code in STOPPED:
        leave_now(code)
    sys.exit(code)


def _parser(chosen: str) -> argparse.ArgumentParser:
    """The parser, with the commands of one group only."""
    parser = argparse.ArgumentParser(
        prog="clac-jax",
        description="Contrastive language-crystal pretraining in JAX.",
        epilog="`clac-jax COMMAND --help` describes a command and its options.",
    )
    version = f"%(prog)s {clac_jax.__version__}"
    parser.add_argument("--version", action="version", version=version)
    groups = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in GROUPS.items():
        group = groups.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        if name == chosen and name in MODULES:
            importlib.import_module(f"clac_jax.cli.{MODULES[name]}").add(group)
    return parser


if __name__ == "__main__":
    run()
