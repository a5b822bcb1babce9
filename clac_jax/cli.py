"""`clac-jax`: everything that is not a training run."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from clac_jax.checkpoint import inspect
from clac_jax.checkpoint.layout import (
    CHECKPOINTS,
    DELETED,
    read_all,
    remove,
    step_folders,
)
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.workdir import Workdir

EXIT_TROUBLE = 1
"""Exit code where a command did its work and found a damaged checkpoint."""

NAMED = "RUN, RUN@best, RUN@last, RUN@step=5000, RUN@epoch=49 or a checkpoint's folder"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(argv)
    try:
        return options.run(options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except BrokenPipeError:  # `clac-jax ckpt show ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


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
    rm = command("rm", _rm, "removes checkpoints of a run, never the newest whole one")
    rm.add_argument("run_folder", metavar="RUN")
    rm.add_argument("steps", metavar="STEP", type=int, nargs="+")
    rm.add_argument("--force", action="store_true", help="the newest whole one too")
    export = command("export", _export, "the model as one safetensors file with its config")
    export.add_argument("checkpoint", help=NAMED)
    export.add_argument("folder", type=Path)
    back = command("import", _import, "an exported model as the checkpoint of a new folder")
    back.add_argument("folder", type=Path)
    back.add_argument("workdir", type=Path)


def _add_import(group: argparse.ArgumentParser) -> None:
    command = _commands(group)
    lightning = command(
        "lightning", _import_lightning, "a checkpoint of the PyTorch release as a run that goes on"
    )
    lightning.add_argument("file", type=Path, metavar="FILE.ckpt")
    lightning.add_argument("--workdir", type=Path, required=True, help="a new folder")
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
            print(f"{folder}: {'whole' if damage is None else 'DAMAGED: ' + damage}")
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
                    f"Step {step} is the newest whole checkpoint of {directory}, from which the "
                    "run would go on. Add --force to remove it all the same."
                )
        for step in options.steps:
            (directory / DELETED).mkdir(exist_ok=True)
            folders[step].rename(directory / DELETED / str(step))
            print(f"removed {folders[step]}")
        remove(directory / DELETED)
    return 0


def _export(options: argparse.Namespace) -> int:
    from clac_jax.checkpoint.export import export

    print(export(locate(options.checkpoint), options.folder.expanduser()))
    return 0


def _import(options: argparse.Namespace) -> int:
    from clac_jax.checkpoint.export import import_model

    print(import_model(options.folder.expanduser(), options.workdir.expanduser()))
    return 0


def _import_lightning(options: argparse.Namespace) -> int:
    from clac_jax.interop.lightning import import_lightning

    file, workdir = options.file.expanduser(), options.workdir.expanduser()
    print(import_lightning(file, workdir, options.text_encoder))
    return 0


def _import_huggingface(options: argparse.Namespace) -> int:
    from clac_jax.interop.language_model import describe_language_model

    print(describe_language_model(options.folder))
    return 0


def _directory(run: str) -> epath.Path:
    """The `checkpoints/` that a run's workdir holds, or that is given itself."""
    folder = epath.Path(os.path.expanduser(run))
    for directory in (folder / CHECKPOINTS, folder):
        if step_folders(directory):
            return directory
    raise CheckpointNotFoundError(
        f"{folder} holds no checkpoints. Give a run's workdir or its {CHECKPOINTS}/."
    )


def _folder(name: str) -> epath.Path:
    """A checkpoint's folder, damaged or not where it is named directly."""
    folder = epath.Path(os.path.expanduser(name))
    return folder if folder.is_dir() else locate(name).folder


def run() -> None:
    """The entry point `clac-jax`."""
    sys.exit(main())


if __name__ == "__main__":
    run()
