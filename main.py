"""Trains a model: python main.py --config=configs/base.py --workdir=outputs/exp."""

from __future__ import annotations

import os
import sys
import traceback

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's C++ notices; read when JAX is imported

from absl import app, flags, logging
from ml_collections import config_flags

from clac_jax.cli.console import protect_output
from clac_jax.cli.flag_errors import describe
from clac_jax.distributed.preemption import EXIT_PREEMPTED, Preempted, StopSignals
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.files.paths import check_local

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file from configs/; override keys with --config.KEY=VALUE."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run; the same command, started again, resumes from it."
)


def main(_: list[str]) -> None:
    """Runs the training that the flags describe."""
    logging.set_verbosity(logging.ERROR)  # the libraries' notices; ours are printed
    with StopSignals() as stop:
        from clac_jax.train import train  # seconds, in which a signal may come

        assert WORKDIR.value is not None, "`parse_flags` has checked it"
        train(CONFIG.value, WORKDIR.value, stop)


def parse_flags(argv: list[str]) -> list[str]:
    """Absl's parser, with a wrong or misspelt flag reported in one line."""
    try:
        for argument in argv[1:]:
            name, _, value = argument.lstrip("-").partition("=")
            if name in ("config", "workdir") and argument.startswith("-") and "=" in argument:
                check_local(value, f"--{name}")
        rest = flags.FLAGS(argv)
        for name in ("config", "workdir"):
            if flags.FLAGS[name].value is None:
                raise flags.ValidationError(f"--{name} is missing, e.g. --{name}=...")
        check_local(WORKDIR.value or "", "--workdir")
        if len(rest) > 1:
            raise flags.ValidationError(f"unexpected argument {rest[1]!r}: flags start with --")
        CONFIG.value.keys()  # a config file that cannot be loaded shows only when it is used
    except Exception as error:  # whatever the code of a config file raises
        given = next((each for each in argv if each.startswith(("--config=", "-config="))), "")
        fail(describe(error, given or "--config"))
    return rest


def fail(message: str, code: int = EXIT_USER_ERROR) -> None:
    """Prints the one thing that is wrong and exits with the code for the user's errors."""
    print(f"error: {message}", file=sys.stderr, flush=True)
    end(code, message)


def end(code: int, why: str) -> None:
    """Exits; as one of several processes without waiting for the others, who would not come."""
    if "clac_jax.distributed.processes" in sys.modules:
        sys.modules["clac_jax.distributed.processes"].leave(code, why)
    sys.exit(code)


def run(argv: list[str]) -> None:
    """`main`, with the user's errors reported without a traceback."""
    try:
        main(argv)
    except UserError as error:
        fail(str(error), error.exit_code)
    except Preempted as stop:
        saved = "checkpoint saved; rerun the same command to resume."
        print(f"{stop.signal_name}: {saved}", flush=True)
        end(EXIT_PREEMPTED, f"it was asked to stop ({stop.signal_name})")
    except Exception as error:
        traceback.print_exc()
        end(1, f"{type(error).__name__}: {error}")
    else:
        end(0, "its work is done")


if __name__ == "__main__":
    protect_output()
    app.run(run, flags_parser=parse_flags)
