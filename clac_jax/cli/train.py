"""`clac-jax train`, also `main.py`: parses flags, calls `train` once, returns an exit code.

Exit codes: 0 if the run has ended, 2 for errors that the user must correct, 75 if the run was
stopped on request and can be resumed, 76 if it hung and can be resumed, 77 if the machine does not
repeat its results, 1 for any other error, with its traceback.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from clac_jax.distributed.preemption import EXIT_PREEMPTED, Preempted, StopSignals
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.files.paths import check_local
from clac_jax.stores.url import is_url, parse_url

HELP = """\
usage: clac-jax train --config=CONFIG --workdir=FOLDER [--config.KEY=VALUE ...]

Train a model. The same command, run again, resumes from the newest checkpoint in the workdir.

options:
  --config=CONFIG       the name of a config of the package,
{names}
                        or the path of a Python file with a function get_config;
                        CONFIG:ARGUMENT passes an argument to it
  --workdir=FOLDER      the folder of the run, created if it does not exist; or a folder in a
                        bucket: s3://BUCKET/FOLDER, gs://..., az://...
  --config.KEY=VALUE    overrides a key of the config, e.g. --config.batch_size=64
  --helpfull            lists the flags of all libraries

exit codes:
  0   the run has ended
  2   the config, the data or the workdir cannot be used; one line says why
  75  the run was asked to stop (SIGTERM, SIGINT, SIGUSR1, SIGHUP) and can be resumed
  76  something took far longer than usual (config.watchdog); the run can be resumed
  77  this machine has computed the same step with different results; the run can be resumed
  1   any other error, or another process of the run was lost

`clac-jax run -- train ...` starts it again after 75, 76 and 1, and once after 77.
"""

_INDENTED: Any = {"initial_indent": 24 * " ", "subsequent_indent": 24 * " "}
_NAME = re.compile(r"[A-Za-z_]\w*")


def run(arguments: Sequence[str]) -> NoReturn:
    """Runs the training that the flags describe, and exits.

    Args:
        arguments: the flags, without the name of the program.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # hides XLA's notices; read by JAX's import
    # Imports and tracing make millions of objects, of which hardly any are garbage: with Python's
    # thresholds, looking for it takes a fifth of the time before the first step.
    gc.set_threshold(50_000, 20, 20)
    if set(arguments) & {"--help", "-help", "-h", "--h", "-?"}:
        from clac_jax.config.shipped import shipped_names

        names = textwrap.fill(f"({', '.join(shipped_names())}),", 100, **_INDENTED)
        print(HELP.format(names=names), end="", flush=True)
        sys.exit(0)
    with contextlib.ExitStack() as listening:
        stop = listening.enter_context(StopSignals())  # before the slow imports
        from absl import app, flags, logging
        from ml_collections import config_flags

        config = config_flags.DEFINE_config_file("config", None, "The config of the run.")
        workdir = flags.DEFINE_string("workdir", None, "The folder of the run.")

        def parse(argv: list[str]) -> list[str]:
            from clac_jax.cli.unset import unset, without_none

            given, to_unset = without_none(argv[1:])
            argv[1:] = with_config_files(given)
            rest = flags.FLAGS(argv)
            for flag in (config, workdir):
                if flag.value is None:
                    raise flags.ValidationError(f"--{flag.name} is missing. Add --{flag.name}=...")
            _check_workdir(str(workdir.value))
            if len(rest) > 1:
                raise flags.ValidationError(f"unexpected argument {rest[1]!r}: flags start with --")
            config.value.keys()  # loads the config file, which may fail
            unset(config.value, to_unset)
            return rest

        def parse_or_exit(argv: list[str]) -> list[str]:
            try:
                return parse(list(argv))
            except Exception as error:  # a config file may raise any type
                from clac_jax.cli.flag_errors import describe

                given = next((each for each in arguments if _is_config(each)), "--config")
                _fail(describe(error, given))

        def main(_: list[str]) -> NoReturn:
            logging.set_verbosity(logging.ERROR)  # hides notices of libraries; ours are printed
            _train(config.value, str(workdir.value), stop, listening)

        app.run(main, argv=["clac-jax train", *arguments], flags_parser=parse_or_exit)
    raise AssertionError("app.run exits")


def _train(
    config: Any, workdir: str, stop: StopSignals, listening: contextlib.ExitStack
) -> NoReturn:
    """Trains, and exits with a code for the outcome.

    Args:
        config: the run's config.
        workdir: the run's workdir.
        stop: the signals that request a stop.
        listening: context that holds `stop`; closed when training has ended.
    """
    try:
        with listening:
            from clac_jax.reporting.events import process_began
            from clac_jax.training_run import train

            train(config, workdir, stop, process_began())
    except UserError as error:
        _fail(str(error), error.exit_code)
    except Preempted as request:
        saved = "checkpoint saved; rerun the same command to resume."
        print(f"{request.signal_name}: {saved}", flush=True)
        _end(EXIT_PREEMPTED, f"it was asked to stop ({request.signal_name})")
    except Exception as error:
        traceback.print_exc()
        _end(1, f"{type(error).__name__}: {error}")
    _end(0, "its work is done")


def _is_config(argument: str) -> bool:
    return argument.startswith(("--config=", "-config="))


def with_config_files(arguments: list[str]) -> list[str]:
    """The flags, with the names of shipped configs replaced by the paths of their files.

    Raises:
        PathError: `--config` or `--workdir` cannot be a local path.
        ConfigError: no config has that name.
    """
    from clac_jax.config.shipped import shipped_file

    result = []
    for place, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if not equals and place and arguments[place - 1] in ("--config", "-config"):
            flag, value = "", argument
        elif not equals or not _is_config(argument):
            if equals and argument.startswith(("--workdir=", "-workdir=")):
                _check_workdir(value)
            result.append(argument)
            continue
        check_local(value, "--config", "a config is a program")
        name, colon, rest = value.partition(":")
        if _NAME.fullmatch(name) and not os.path.exists(name):
            value = f"{shipped_file(name)}{colon}{rest}"
        result.append(f"{flag}{equals}{value}")
    return result


def _check_workdir(text: str) -> None:
    """Rejects what is neither a local path nor a folder in a bucket.

    Raises:
        PathError, UrlError: it cannot be used.
    """
    if is_url(text):
        parse_url(text)
    else:
        check_local(text, "--workdir")


def _fail(message: str, code: int = EXIT_USER_ERROR) -> NoReturn:
    """Prints the error message, and exits."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    _end(code, message)


def _end(code: int, why: str) -> NoReturn:
    """Exits; one of several processes does not wait for the others, which may hang."""
    if "clac_jax.distributed.processes" in sys.modules:
        sys.modules["clac_jax.distributed.processes"].leave(code, why)
    sys.exit(code)
