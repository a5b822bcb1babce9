"""`clac-jax ckpt average` and `ckpt soup`: one model from several checkpoints."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from clac_jax.cli.command import NAMED, new_workdir
from clac_jax.errors import UserError, shown, warn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from clac_jax.checkpoint.layout import CheckpointInfo


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds the two commands; `command` as from `cli.command.commands`."""
    average = command(
        "average",
        _average,
        "average the models of several checkpoints into a new workdir",
    )
    average.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help=NAMED)
    _add_out(average)
    how = average.add_mutually_exclusive_group()
    how.add_argument(
        "--weights", metavar="W,W,...", help="their weights, divided by their sum (default: equal)"
    )
    how.add_argument(
        "--ema",
        metavar="DECAY",
        type=float,
        help="the exponential average over all stored checkpoints of one run, oldest first: "
        "DECAY * average + (1 - DECAY) * checkpoint",
    )
    soup = command(
        "soup",
        _soup,
        "average those of several checkpoints that make the average better on validation",
    )
    soup.add_argument("checkpoints", metavar="CHECKPOINT", nargs="+", help=NAMED)
    _add_out(soup)
    soup.add_argument(
        "--measure",
        help="the measure of a validation that decides, such as text_to_crystal_top1 (default: "
        "checkpoint.monitor of the first checkpoint's config)",
    )
    soup.add_argument("--data_dir", help="folder of the prepared data (default: that of the run)")


def _add_out(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="WORKDIR", required=True, help="a new folder, or its URL")


def _average(options: argparse.Namespace) -> int:
    from clac_jax.checkpoint.averaging import (
        average,
        check_alike,
        describe_average,
        has_statistics,
        ingredients,
        save_average,
    )
    from clac_jax.checkpoint.made_from import made_from

    if options.ema is not None:
        infos, weights = _of_one_run(options.checkpoints, options.ema)
        how = f"exponential average of the checkpoints of a run (decay {options.ema:g})"
    else:
        infos = _located(options.checkpoints)
        weights = _weights(options.weights, len(infos))
        how = "weighted mean"
    check_alike(infos)
    _warn_of_adapters(infos[0])
    with new_workdir(options.out, "--out") as workdir:
        arrays = average(infos, weights)
        about = made_from(how, ingredients(infos, weights))
        written = shown(save_average(workdir, infos, arrays, about))
    for info, weight in zip(infos, weights, strict=True):
        print(f"{weight:<9.4g} x {shown(info.folder)}")
    print(f"arrays      {describe_average(infos)}")
    if has_statistics(infos[0]):
        print(
            "statistics  the batch statistics are means of those of the checkpoints, not those of "
            "the averaged model: docs/averages-and-adapters.md says how to compute them"
        )
    print(f"written     {written}")
    return 0


def _soup(options: argparse.Namespace) -> int:
    from clac_jax.checkpoint.averaging import check_alike
    from clac_jax.evaluation.soup import cook, format_soup

    infos = _located(options.checkpoints)
    check_alike(infos)
    _warn_of_adapters(infos[0])
    with new_workdir(options.out, "--out") as workdir:
        soup = cook(infos, options.measure, options.data_dir, options.checkpoints)
        written = shown(soup.save(workdir))
    print(format_soup(soup))
    print(f"written   {written}")
    return 0


def _warn_of_adapters(info: CheckpointInfo) -> None:
    from clac_jax.config.adapters import has_adapters
    from clac_jax.config.schema import with_defaults

    if has_adapters(with_defaults(info.config)):
        warn(
            "adapters are averaged matrix by matrix, and the product of two means is not the mean "
            "of the products. To average what they add, merge them first (`clac-jax ckpt export "
            "--merge`, then `ckpt import`)."
        )


def _located(names: Sequence[str]) -> list[CheckpointInfo]:
    from clac_jax.checkpoint.locate import locate

    if len(names) < 2:
        raise UserError(f"There is nothing to average {names[0]} with. Name more checkpoints.")
    return [locate(name) for name in names]


def _weights(text: str | None, count: int) -> tuple[float, ...]:
    from clac_jax.surgery.mixing import normalized

    if text is None:
        return normalized([1.0] * count)
    try:
        weights = [float(each) for each in text.split(",")]
        if len(weights) != count:
            raise ValueError(f"it has {len(weights)} for {count} checkpoints")
        return normalized(weights)
    except ValueError as error:
        raise UserError(
            f"--weights={text} cannot be used: {error}. Give one number for each checkpoint, "
            "separated by commas: --weights=0.7,0.3."
        ) from error


def _of_one_run(
    names: Sequence[str], decay: float
) -> tuple[list[CheckpointInfo], tuple[float, ...]]:
    """All checkpoints of a run, oldest first, and their weights."""
    from clac_jax.checkpoint.layout import CHECKPOINTS, read_all
    from clac_jax.checkpoint.locate import locate
    from clac_jax.surgery.mixing import decaying_weights

    directory = locate(names[0]).folder.parent
    if len(names) > 1 or "@" in names[0].rpartition("/")[2] or directory.name != CHECKPOINTS:
        raise UserError(
            "--ema averages all checkpoints of one run. Name its workdir, and nothing else."
        )
    intact, damaged = read_all(directory)
    if damaged:
        raise next(iter(damaged.values()))
    try:
        weights = decaying_weights(decay, len(intact))
    except ValueError as error:
        raise UserError(f"--ema={decay:g} cannot be used: {error}. Change it.") from error
    return list(intact.values()), weights
