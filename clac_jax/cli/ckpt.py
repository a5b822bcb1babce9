"""`clac-jax ckpt`: commands on checkpoints, without JAX where possible."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path

from etils import epath

from clac_jax.checkpoint import inspect
from clac_jax.checkpoint.fetched import fetch_run, split_name
from clac_jax.checkpoint.groups import groups_of
from clac_jax.checkpoint.layout import CHECKPOINTS, is_checkpoint, read_all, step_folders
from clac_jax.checkpoint.locate import CheckpointNotFoundError, locate
from clac_jax.checkpoint.removal import discard
from clac_jax.checkpoint.sharing import collect, stores_of
from clac_jax.checkpoint.usage import usage_of
from clac_jax.cli import average, plan, publish
from clac_jax.cli.command import NAMED, commands, new_workdir
from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import UserError, shown
from clac_jax.files.paths import local_path
from clac_jax.stores.copies import local_copy
from clac_jax.stores.outputs import output_folder
from clac_jax.stores.url import is_url

EXIT_TROUBLE = 1
"""Exit code of a command that succeeded and found a damaged checkpoint."""


def add(group: argparse.ArgumentParser) -> None:
    """Adds the `ckpt` commands."""
    command = commands(group, plan.ConfigParser)
    ls = command("ls", _ls, "list the checkpoints of a run, and why each is kept")
    ls.add_argument("run_folder", metavar="RUN")
    show = command("show", _show, "show one checkpoint: progress, metrics, arrays with their norms")
    show.add_argument("checkpoint", help=NAMED)
    show.add_argument("--all", action="store_true", help="list the arrays of the optimizer as well")
    diff = command("diff", _diff, "compare two checkpoints: config and arrays")
    diff.add_argument("a", help=NAMED)
    diff.add_argument("b")
    diff.add_argument("--all", action="store_true", help="list every array that differs")
    verify = command("verify", _verify, "compare every byte with the checksums")
    verify.add_argument("checkpoint", metavar="RUN_OR_CHECKPOINT")
    for parser in (ls, show, diff, verify):
        parser.add_argument("--json", action="store_true", help="print JSON")
    what = "say where each array of a new model would come from, and propose rules"
    plan.add_flags(command("plan", plan.run, what))
    rm = command("rm", _rm, "remove checkpoints of a run, but not the newest intact one")
    rm.add_argument("run_folder", metavar="RUN")
    rm.add_argument("steps", metavar="STEP", type=int, nargs="+")
    rm.add_argument("--force", action="store_true", help="remove the newest intact one as well")
    export = command("export", _export, "the same as `clac-jax publish`; or only the adapters")
    export.add_argument("checkpoint", help=NAMED)
    export.add_argument("folder")
    part = export.add_mutually_exclusive_group()
    part.add_argument(
        "--merge", action="store_true", help="merge the adapters (LoRA) into the weights"
    )
    part.add_argument(
        "--adapter",
        action="store_true",
        help="write only what was trained, without the frozen weights: adapter.safetensors, for "
        "clac_jax.load(BASE, adapter=FOLDER)",
    )
    publish.add_card_flags(export)
    back = command("import", _import, "make a published model the checkpoint of a new workdir")
    back.add_argument("folder")
    back.add_argument("workdir")
    average.add(command)


def _ls(options: argparse.Namespace) -> int:
    intact, damaged = read_all(_directory(options.run_folder))
    rows = inspect.list_run(intact, damaged)
    monitor = intact[max(intact)].config["checkpoint"]["monitor"] if intact else None
    print(json.dumps(rows, indent=1) if options.json else inspect.format_list(rows, monitor))
    if not options.json and (line := inspect.describe_disk([i.folder for i in intact.values()])):
        print(line)
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
    damages = {shown(folder): inspect.verify(folder) for folder in folders}
    if options.json:
        print(json.dumps(damages, indent=1))
    else:
        for folder, damage in damages.items():
            print(f"{folder}: {'intact' if damage is None else 'DAMAGED: ' + damage}")
    return EXIT_TROUBLE if any(damages.values()) else 0


def _rm(options: argparse.Namespace) -> int:
    directory = _directory(options.run_folder)
    if is_url(options.run_folder):
        _removable(directory, options.steps, options.force)
        return _remove_from_bucket(options.run_folder, list(dict.fromkeys(options.steps)))
    with Workdir(str(directory.parent)):  # fails if a run is writing there
        folders = _removable(directory, options.steps, options.force)
        intact = read_all(directory)[0].values()
        stores = stores_of(info.config for info in intact)
        are_shared = any(groups_of(Path(info.folder)) for info in intact)  # else no store is made
        problems: list[str] = []
        for step in dict.fromkeys(options.steps):
            freed = usage_of([folders[step]]).own
            found = discard(directory, folders[step])
            problems += found
            if not os.path.lexists(folders[step]):
                what = "its space is freed later" if found else f"{freed / 1e6:.1f} MB freed"
                print(f"removed {folders[step]} ({what})")
            for problem in found:
                print(f"warning: {problem}", file=sys.stderr)
        for store in stores:
            if are_shared and not store.is_dir():
                problem = (
                    f"The store {store} (checkpoint.store) is missing, so nothing was "
                    "removed from it. If its path is relative, run this in the folder where the "
                    "run was started; if it has moved, the next run that uses it cleans it."
                )
                print(f"warning: {problem}", file=sys.stderr)
                problems.append(problem)
            collect(store)
    return EXIT_TROUBLE if problems else 0


def _removable(directory: epath.Path, steps: list[int], force: bool) -> dict[int, epath.Path]:
    """The folders of all checkpoints of a run, of which some may be removed.

    Raises:
        CheckpointNotFoundError: one of the steps has no checkpoint.
        UserError: one is the newest intact one, and `force` is false.
    """
    folders = step_folders(directory)
    intact, _ = read_all(directory)
    for step in steps:
        if step not in folders:
            raise CheckpointNotFoundError(
                f"{directory} has no checkpoint of step {step}. "
                f"There are {', '.join(map(str, folders)) or 'none'}."
            )
        if step == max(intact, default=None) and not force:
            raise UserError(
                f"Step {step} is the newest intact checkpoint of {directory}, from which the "
                "run would resume. Add --force to remove it anyway."
            )
    return folders


def _remove_from_bucket(run: str, steps: list[int]) -> int:
    from clac_jax.bucket.removing import remove_checkpoints

    url = run.strip().rstrip("/").removesuffix(f"/{CHECKPOINTS}")
    remove_checkpoints(url, steps)
    for step in steps:
        print(f"removed {url}/{CHECKPOINTS}/{step}")
    return 0


def _export(options: argparse.Namespace) -> int:
    if not options.adapter:
        return publish.run(options)
    from clac_jax.checkpoint.adapters import ADAPTER_FILE, export_adapter

    info = locate(options.checkpoint)
    with output_folder(options.folder, "FOLDER", ADAPTER_FILE) as folder:
        written = shown(export_adapter(info, folder))
    print(written)
    return 0


def _import(options: argparse.Namespace) -> int:
    from clac_jax.checkpoint.export import import_model

    folder = local_copy(options.folder, "FOLDER")
    with new_workdir(options.workdir, "WORKDIR") as workdir:
        written = shown(import_model(folder, workdir))
    print(written)
    return 0


def _directory(run: str) -> epath.Path:
    """The `checkpoints/` of a run, from its workdir or its own path."""
    folder = epath.Path(fetch_run(run) if is_url(run) else local_path(run, "RUN"))
    for directory in (folder / CHECKPOINTS, folder):
        if step_folders(directory):
            return directory
    problem = "holds no checkpoints" if folder.exists() else "does not exist"
    raise CheckpointNotFoundError(
        f"{folder} {problem}. Give a run's workdir or its {CHECKPOINTS}/."
    )


def _folder(name: str) -> epath.Path:
    """The folder of a checkpoint; if it is named directly it may be damaged.

    Raises:
        CheckpointNotFoundError: it is neither a checkpoint nor a run that has one.
    """
    if not is_url(name):
        folder = epath.Path(local_path(name, "CHECKPOINT"))
    elif split_name(name)[1]:
        return locate(name).folder
    else:
        folder = epath.Path(fetch_run(name))
    return folder if is_checkpoint(folder) else locate(name).folder
