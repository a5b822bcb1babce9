"""Behaves as `clac-jax train` does in a trial, in milliseconds and without JAX.

Each epoch writes a validation row and a "checkpoint", both functions of only the overridden keys.
It stops at SIGTERM and when its supervisor is gone, resumes, and locks its folder. Variables:
PRETEND_EPOCHS (4), PRETEND_SECONDS per epoch (0), PRETEND_FAULT: "x=0.5:2" exits with code 2 if the
key x has that value; "start" exits with code 1 at each start. PRETEND_REASON: its error.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path


def flags():
    given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    keys = {name[7:]: value for name, value in given.items() if name.startswith("config.")}
    return Path(given["workdir"]), keys


def value_at(keys, epoch):
    """A loss that falls with each epoch, towards a floor that depends on the keys."""
    digest = hashlib.sha256(json.dumps(sorted(keys.items())).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 + 1 / (epoch + 1)


def main():
    stop = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    workdir, keys = flags()
    with open(workdir / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: it is in use by another process.")
            return 2
        print("start", flush=True)
        fault = os.environ.get("PRETEND_FAULT", "")
        if fault == "start":
            print("a crash")
            return 1
        name, _, code = fault.partition(":")
        if name and keys.get(name.partition("=")[0]) == name.partition("=")[2]:
            print("error: " + os.environ.get("PRETEND_REASON", f"{name} cannot be used."))
            return int(code)
        return train(workdir, keys, stop)


def train(workdir, keys, stop):
    folder, path = workdir / "checkpoints", workdir / "metrics.jsonl"
    folder.mkdir(exist_ok=True)
    done = max((int(each.name) for each in folder.iterdir() if each.name.isdigit()), default=0)
    rows = path.read_text().splitlines() if path.exists() else []
    temporary = workdir / "rewritten"
    temporary.write_text("".join(row + "\n" for row in rows if json.loads(row)["step"] <= done))
    os.replace(temporary, path)
    with open(path, "a", encoding="utf-8") as file:
        for epoch in range(done, int(os.environ.get("PRETEND_EPOCHS", "4"))):
            end = time.monotonic() + float(os.environ.get("PRETEND_SECONDS", "0"))
            while time.monotonic() < end:
                time.sleep(0.002)
                if stop or not supervised():
                    return 75
            value = value_at(keys, epoch)
            row = {"split": "val", "step": epoch + 1, "epoch": epoch, "val_loss": value}
            file.write(json.dumps(row) + "\n")
            file.flush()
            saved = folder / f"{epoch + 1}.tmp"
            saved.mkdir(exist_ok=True)
            (saved / "state").write_text(f"{value!r}\n")
            os.replace(saved, folder / str(epoch + 1))
    print("complete")
    return 0


def supervised():
    """Whether the program that started this one still runs, as the watchdog notices it."""
    descriptor = int(os.environ["CLAC_JAX_SUPERVISED"].partition(":")[0])
    os.set_blocking(descriptor, False)
    with contextlib.suppress(BlockingIOError):
        try:
            os.write(descriptor, b".")
        except BrokenPipeError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
