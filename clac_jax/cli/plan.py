"""`clac-jax ckpt plan`: where each array of a new model would come from."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clac_jax.cli.command import NAMED
from clac_jax.errors import UserError, one_line

EXIT_OPEN = 1
"""Exit code if a run would not start, because something is open."""


class PlanError(UserError):
    """The arguments of a plan cannot be used."""


class ConfigParser(argparse.ArgumentParser):
    """A parser that leaves `--config...` flags to the parser of runs, in `options.config_flags`."""

    takes_config = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See `argparse.ArgumentParser`."""
        if not self.takes_config or args is None:
            return super().parse_known_args(args, namespace)
        flags, rest, words = [], [], list(args)
        while words:
            word = words.pop(0)
            if word == "--config" and words:
                flags.append(f"{word}={words.pop(0)}")
            elif word.startswith(("--config=", "--config.")):
                flags.append(word)
            else:
                rest.append(word)
        found, extra = super().parse_known_args(rest, namespace)
        found.config_flags = flags
        return found, extra


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of the command."""
    assert isinstance(parser, ConfigParser)
    parser.takes_config = True
    parser.usage = (
        "clac-jax ckpt plan [SOURCE ...] --config=CONFIG [--config.KEY=VALUE ...] [--rules FILE] "
        "[--content CHECKPOINT] [--write FILE] [--all] [--json]"
    )
    parser.epilog = (
        "--config=CONFIG and --config.KEY=VALUE are those of `clac-jax train`. Only names and "
        "shapes are read. Exit code 1: something is open, and a run would stop."
    )
    parser.add_argument(
        "sources",
        metavar="SOURCE",
        nargs="*",
        help=f"{NAMED}; or a file or folder of another program (.ckpt, .safetensors, a folder of "
        "Hugging Face or Orbax, hf:owner/name); by default, what the config starts from",
    )
    parser.add_argument(
        "--rules",
        metavar="FILE",
        action="append",
        default=[],
        help="a file with rules as in config.restore.rules, for the first source; again for the "
        "second, and so on",
    )
    parser.add_argument(
        "--content",
        metavar="CHECKPOINT",
        help="a checkpoint of the new model: propose by arrays that are equal to some of it, too",
    )
    parser.add_argument(
        "--write", metavar="FILE", help="write a config file with the sources and proposed rules"
    )
    parser.add_argument("--all", action="store_true", help="list every array")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Prints the plan; returns the exit code."""
    from clac_jax.checkpoint.locate import locate
    from clac_jax.checkpoint.plan import make_plan
    from clac_jax.checkpoint.sources import of_checkpoint, with_growth
    from clac_jax.config import check as config_check
    from clac_jax.merging import listing
    from clac_jax.merging.model_shapes import shapes_of_config
    from clac_jax.merging.proposing import propose
    from clac_jax.merging.writing import write_config

    base, given, plain = _config(options.config_flags)
    config = config_check.ready(given)
    sources, resumes = _sources(options.sources, options.rules, config)
    shapes = shapes_of_config(config)
    plan = make_plan(with_growth(sources, config), shapes)
    reference = of_checkpoint(locate(options.content)) if options.content else None
    proposal = propose(plan, shapes, config, reference)
    if options.write:
        overrides = _differences(plain, given)
        write_config(Path(options.write), base, overrides, proposal, resumes=resumes)
    is_open = bool(plan.problems())
    if options.json:
        rules = {n: [list(rule) for rule, _ in some] for n, some in proposal.rules.items()}
        facts = {
            "open": len(plan.problems()),
            "proposed": rules,
            "grows": proposal.grows,
            "refusals": [dataclasses.asdict(refusal) for refusal in proposal.refusals],
        }
        print(json.dumps(plan.to_json() | facts, indent=1))
        return EXIT_OPEN if is_open else 0
    print(listing.list_plan(plan, all_arrays=options.all), end="\n\n")
    open_line = listing.list_open(plan, can_grow=not proposal.refusals)
    print(open_line or "open      nothing: a run would start")
    if text := listing.list_proposal(proposal, len(sources) > 1):
        print(text)
        if not options.write:
            print("          --write FILE.py writes a config with them")
    if options.write:
        print(f"written   clac-jax train --config={options.write} --workdir=...")
    return EXIT_OPEN if is_open else 0


def _config(flags: Sequence[str]) -> tuple[str, Any, Any]:
    """The value of --config, the config with its overrides, and the one without."""
    from clac_jax.cli.flag_errors import describe
    from clac_jax.cli.train import with_config_files
    from clac_jax.cli.unset import unset, without_none

    name = next((flag for flag in flags if flag.startswith("--config=")), "")
    if not name:
        raise PlanError("--config is missing. Add --config=... of the new run.")
    from absl import flags as absl_flags
    from ml_collections import config_flags

    configs = []
    for arguments in (list(flags), [name]):
        values = absl_flags.FlagValues()  # type: ignore[no-untyped-call]
        left, to_unset = without_none(arguments)
        argv = ["clac-jax ckpt plan", *with_config_files(left)]
        try:
            with warnings.catch_warnings():  # the library loads files in a deprecated way
                warnings.simplefilter("ignore", DeprecationWarning)
                holder = config_flags.DEFINE_config_file(
                    "config", None, flag_values=values, sys_argv=argv
                )
                values(argv)
                holder.value.keys()  # loads the file, which may fail
                unset(holder.value, to_unset)
        except Exception as error:  # a config file may raise any type
            raise PlanError(describe(error, name)) from error
        configs.append(holder.value)
    return name.removeprefix("--config="), configs[0], configs[1]


def _sources(names: Sequence[str], files: Sequence[str], config: Any) -> tuple[list[Any], bool]:
    """The sources, and whether they are what `config.resume_from` would name."""
    from clac_jax.checkpoint.matching import RestoreOptions
    from clac_jax.checkpoint.opening import open_arrays, open_sources, wanted_of
    from clac_jax.checkpoint.sources import Wanted

    if not names and config.restore.sources:
        sources, resumes = open_sources(config.restore), False
    else:
        names = list(names) or ([config.resume_from] if config.resume_from else [])
        if not names:
            raise PlanError(
                "There is nothing to plan from: name a SOURCE, or set config.resume_from or "
                "config.restore.sources."
            )
        base = RestoreOptions.from_config(config.restore)
        opened = [open_arrays(name) for name in names]
        resumes = len(opened) == 1 and opened[0].info is not None
        if resumes:
            sources = [Wanted(opened[0], base)]
        else:
            sources = [wanted_of(each, {"from": each.name}, base) for each in opened]
    if len(files) > len(sources):
        raise PlanError(
            f"--rules is given {len(files)} times, and there {'is' if len(sources) == 1 else 'are'}"
            f" {len(sources)} SOURCE. Give at most one file for each."
        )
    for number, file in enumerate(files):
        old = sources[number]
        rules = (*old.options.rules, *_rules(file))
        options = dataclasses.replace(old.options, rules=rules)
        sources[number] = dataclasses.replace(old, options=options)
    return sources, resumes


def _rules(file: str) -> Any:
    """Rules from a file that holds them as a Python literal."""
    from clac_jax.checkpoint.renaming import as_rules
    from clac_jax.config.saving import wrong_rules
    from clac_jax.files.paths import explain, local_path

    path = local_path(file, "--rules")
    try:
        values = ast.literal_eval(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PlanError(f"--rules={file} cannot be read: {explain(error)}") from error
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise PlanError(
            f"--rules={file} is not a tuple of rules ({one_line(error)}). Write them as in "
            "config.restore.rules: (('old/(.*)', r'new/\\1'),)"
        ) from error
    if problem := wrong_rules(values):
        raise PlanError(f"--rules={file} cannot be used. {problem}")
    return as_rules(values)


def _differences(old: Any, new: Any) -> dict[str, Any]:
    """Dotted key -> value in the new config, where it differs."""
    from clac_jax.config.schema import flatten

    before, after = flatten(old), flatten(new)
    return {key: value for key, value in after.items() if before.get(key) != value}
