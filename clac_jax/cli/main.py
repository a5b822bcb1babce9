"""`clac-jax`: everything that is not a training run."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from etils import epath

from clac_jax.checkpoint import inspect
from clac_jax.checkpoint.layout import CHECKPOINTS, read_all, step_folders
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.checkpoint.removal import discard
from clac_jax.cli.console import output_failure, protect_output
from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.files.paths import explain, local_path

EXIT_TROUBLE = 1
"""Exit code where a command did its work and found a damaged checkpoint."""

NAMED = "RUN, RUN@best, RUN@last, RUN@step=5000, RUN@epoch=49 or a checkpoint's folder"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        return int(options.run(options))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="clac-jax", description=__doc__)
    groups = parser.add_subparsers(required=True, metavar="GROUP")
    _add_ckpt(groups.add_parser("ckpt", help="look at, compare, check and manage checkpoints"))
    _add_import(groups.add_parser("import", help="read what other programs have trained"))
    return parser


def _commands(group: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    """(name, function, text) -> the parser of a new command of the group."""
    commands = group.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return made

    return command


def _add_ckpt(group: argparse.ArgumentParser) -> None:
    command = _commands(group)
    ls = command("ls", _ls, "the checkpoints of a run, and why each is kept")
    ls.add_argument("run_folder", metavar="RUN")
    show = command("show", _show, "one checkpoint: progress, metrics, arrays with their norms")
    show.add_argument("checkpoint", help=NAMED)
    show.add_argument("--all", action="store_true", help="the optimizer's arrays too")
    diff = command("diff", _diff, "two checkpoints: config and arrays, largest changes first")
    diff.add_argument("a", help=NAMED)
    diff.add_argument("b")
    diff.add_argument("--all", action="store_true", help="every array that differs")
    verify = command("verify", _verify, "compares every byte with the checksums")
    verify.add_argument("checkpoint", metavar="RUN_OR_CHECKPOINT")
    for made in (ls, show, diff, verify):
        made.add_argument("--json", action="store_true", help="for programs")
    rm = command("rm", _rm, "removes checkpoints of a run, never the newest intact one")
    rm.add_argument("run_folder", metavar="RUN")
    rm.add_argument("steps", metavar="STEP", type=int, nargs="+")
    rm.add_argument("--force", action="store_true", help="the newest intact one too")
    export = command("export", _export, "the model as one safetensors file with its config")
    export.add_argument("checkpoint", help=NAMED)
    export.add_argument("folder")
    back = command("import", _import, "an exported model as the checkpoint of a new folder")
    back.add_argument("folder")
    back.add_argument("workdir")


def _add_import(group: argparse.ArgumentParser) -> None:
    command = _commands(group)
    lightning = command(
        "lightning", _import_lightning, "a checkpoint of the PyTorch release as a run to resume"
    )
    lightning.add_argument("file", metavar="FILE.ckpt")
    lightning.add_argument("--workdir", required=True, help="a new folder")
    lightning.add_argument(
        "--text-encoder",
        metavar="FOLDER_OR_ID",
        help="the language model the run began with, for its config.json and tokenizer; by default "
        "what the checkpoint names",
    )
    huggingface = command(
        "huggingface", _import_huggingface, "a language model: what of it is used, and the flags"
    )
    huggingface.add_argument("folder", metavar="FOLDER_OR_ID")


def _ls(options: argparse.Namespace) -> int:
    whole, damaged = read_all(_directory(options.run_folder))
    rows = inspect.list_run(whole, damaged)
    monitor = whole[max(whole)].config["checkpoint"]["monitor"] if whole else None
    print(json.dumps(rows, indent=1) if options.json else inspect.format_list(rows, monitor))
    return EXIT_TROUBLE if any(row["damage"] for row in rows) else 0


def _show(options: argparse.Namespace) -> int:
    info = locate(options.checkpoint)
    if options.json:
        print(json.dumps(inspect.show(info), indent=1))
    else:
        print(inspect.format_show(info, options.all))
    return 0


def _diff(options: argparse.Namespace) -> int:
    difference = inspect.diff(locate(options.a), locate(options.b))
    if options.json:
        print(json.dumps(dataclasses.asdict(difference), indent=1))
    else:
        print(inspect.format_diff(difference, None if options.all else 20))
    return 0


def _verify(options: argparse.Namespace) -> int:
    try:
        folders = list(step_folders(_directory(options.checkpoint)).values())
    except CheckpointNotFoundError:
        folders = [_folder(options.checkpoint)]
    found = {str(folder): inspect.verify(folder) for folder in folders}
    if options.json:
        print(json.dumps(found, indent=1))
    else:
        for folder, damage in found.items():
            print(f"{folder}: {'intact' if damage is None else 'DAMAGED: ' + damage}")
    return EXIT_TROUBLE if any(found.values()) else 0


def _rm(options: argparse.Namespace) -> int:
    directory = _directory(options.run_folder)
    with Workdir(str(directory.parent)):  # no run is writing there
        folders = step_folders(directory)
        whole, _ = read_all(directory)
        for step in options.steps:
            if step not in folders:
                raise CheckpointNotFoundError(
                    f"{directory} has no checkpoint of step {step}. "
                    f"There are {', '.join(map(str, folders)) or 'none'}."
                )
            if step == max(whole, default=None) and not options.force:
                raise UserError(
                    f"Step {step} is the newest intact checkpoint of {directory}, from which the "
                    "run would resume. Add --force to remove it all the same."
                )
        problems = []
        for step in dict.fromkeys(options.steps):
            problems = discard(directory, folders[step])
            if not os.path.lexists(folders[step]):
                print(f"removed {folders[step]}")
            for problem in problems:
                print(f"warning: {problem}", file=sys.stderr)
    return EXIT_TROUBLE if problems else 0


def _export(options: argparse.Namespace) -> int:
    from clac_jax.checkpoint.export import export

    folder = local_path(options.folder, "FOLDER")
    print(export(locate(options.checkpoint), folder))
    return 0


def _import(options: argparse.Namespace) -> int:
    from clac_jax.checkpoint.export import import_model

    folder = local_path(options.folder, "FOLDER")
    print(import_model(folder, local_path(options.workdir, "WORKDIR")))
    return 0


def _import_lightning(options: argparse.Namespace) -> int:
    from clac_jax.interop.lightning import import_lightning

    file = local_path(options.file, "FILE.ckpt")
    workdir = local_path(options.workdir, "--workdir")
    print(import_lightning(file, workdir, options.text_encoder))
    return 0


def _import_huggingface(options: argparse.Namespace) -> int:
    from clac_jax.interop.language_model import describe_language_model

    print(describe_language_model(options.folder))
    return 0


def _directory(run: str) -> epath.Path:
    """The `checkpoints/` that a run's workdir holds, or that is given itself."""
    folder = epath.Path(local_path(run, "RUN"))
    for directory in (folder / CHECKPOINTS, folder):
        if step_folders(directory):
            return directory
    raise CheckpointNotFoundError(
        f"{folder} holds no checkpoints. Give a run's workdir or its {CHECKPOINTS}/."
    )


def _folder(name: str) -> epath.Path:
    """A checkpoint's folder, damaged or not where it is named directly."""
    folder = epath.Path(local_path(name, "CHECKPOINT"))
    return folder if folder.is_dir() else locate(name).folder


def run() -> None:
    """The entry point `clac-jax`: `main`, and an error where its output could not be written."""
    protect_output()
    code = main()
    failure = output_failure()
    if failure is not None and failure.errno != errno.EPIPE:  # `... | head` has what it wants
        print(f"error: Cannot write the output: {explain(failure)}", file=sys.stderr)
        code = code or EXIT_USER_ERROR
    sys.exit(code)


if __name__ == "__main__":
    run()
