"""Behaves as `clac-jax train` does in a population, in milliseconds and without JAX.

Its state is a few numbers; what an epoch makes of them depends on the learning rate. It resumes
from its newest checkpoint, or from the last one of `resume_from`, stops after `stop_at_epoch`
epochs and at SIGTERM, notices that its supervisor is gone, and locks its folder. A learning rate
above PRETEND_LIMIT diverges. An epoch lasts PRETEND_SECONDS.
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


def main():
    stop = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop.append(number))
    given = dict(argument[2:].split("=", 1) for argument in sys.argv[1:] if "=" in argument)
    keys = {name[7:]: value for name, value in given.items() if name.startswith("config.")}
    workdir = Path(given["workdir"])
    with open(workdir / ".lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("error: it is in use by another process.")
            return 2
        return train(workdir, keys, stop)


def newest(workdir):
    """(epochs done, state) of the newest checkpoint, or None."""
    found = [each for each in workdir.glob("checkpoints/*") if each.name.isdigit()]
    folder = max(found, key=lambda each: int(each.name), default=None)
    return folder and (int(folder.name), json.loads((folder / "state.json").read_text()))


def after(epoch, state, rate):
    noise = hashlib.sha256(f"{epoch} {state[-1]!r}".encode()).digest()
    # The best rate falls with the epochs, so that schedules are worth finding.
    step = 0.5 / (1 + abs(rate * 1e3 * (epoch + 1) - 1))
    return [x * (1 - step) + rate * noise[place] / 255 for place, x in enumerate(state)]


def train(workdir, keys, stop):
    rate, path = float(keys["learning_rate"]), workdir / "metrics.jsonl"
    start = newest(workdir)
    if start is None and (source := keys.get("resume_from")):
        start = newest(Path(source.removesuffix("@last")))
        if start is None:
            print(f"error: {source} has no checkpoint.")
            return 2
    done, state = start or (0, [1.0, 2.0, 3.0, 4.0])
    rows = path.read_text().splitlines() if path.exists() else []
    temporary = workdir / "rewritten"
    kept = [row for row in rows if json.loads(row)["step"] <= done]
    temporary.write_text("".join(f"{row}\n" for row in kept))
    os.replace(temporary, path)
    with open(path, "a", encoding="utf-8") as file:
        for epoch in range(done, int(keys["stop_at_epoch"])):
            end = time.monotonic() + float(os.environ.get("PRETEND_SECONDS", "0"))
            while time.monotonic() < end:
                time.sleep(0.002)
                if stop or not supervised():
                    return 75
            if rate > float(os.environ.get("PRETEND_LIMIT", "inf")):
                print("error: At step 7 the loss is nan.")
                return 2
            state = after(epoch, state, rate)
            row = {"split": "val", "step": epoch + 1, "epoch": epoch, "val_loss": sum(state)}
            file.write(json.dumps(row) + "\n")
            file.flush()
            saved = workdir / "checkpoints" / f"{epoch + 1}.tmp"
            saved.mkdir(parents=True, exist_ok=True)
            (saved / "state.json").write_text(json.dumps(state))
            os.replace(saved, saved.with_suffix(""))
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
