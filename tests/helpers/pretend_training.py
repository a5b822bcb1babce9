"""Behaves as a training would: argv[1] is its workdir, argv[2:] say what each of its starts does.

Each is a text "CHECKPOINT CODE": the step of a checkpoint that it writes (-: none; "8;": it only
reports it, as a process that is not the first does), and its exit
code, or "SIGKILL" (it kills itself), or "wait" (for signals, which it prints; SIGTERM ends it with
code 75, a second signal with 128 + n). The last one is repeated.
"""

import contextlib
import os
import signal
import sys
import time
from pathlib import Path


def main(workdir, plans):
    received = []

    def receive(number, frame):
        received.append(number)
        workdir.with_name(f"{workdir.name}.received").write_text(signal.Signals(number).name)
        with contextlib.suppress(BrokenPipeError):  # as in a training: the output ends nothing
            print(f"received {signal.Signals(number).name}", flush=True)
        if len(received) > 1:
            sys.exit(128 + number)
        if number == signal.SIGTERM:
            sys.exit(75)

    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(each, receive)
    counter = workdir.with_name(f"{workdir.name}.starts")
    start = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(start + 1))
    checkpoint, code = plans[min(start, len(plans) - 1)].split()
    print(f"start {start + 1}", flush=True)
    print(f"a message of start {start + 1}", file=sys.stderr, flush=True)
    if checkpoint.endswith(";"):
        pipe = int(os.environ["CLAC_JAX_SUPERVISED"].partition(":")[0])
        os.write(pipe, f"4;{checkpoint}".encode())
    elif checkpoint != "-":
        (workdir / "checkpoints" / checkpoint).mkdir(parents=True, exist_ok=True)
        print(f"epoch 0  step {checkpoint}/1000  loss 1.000", flush=True)
    if code == "SIGKILL":
        os.kill(os.getpid(), signal.SIGKILL)
    if code == "wait":
        workdir.with_name(f"{workdir.name}.waits").write_text(str(os.getpid()))
        for _ in range(600):
            time.sleep(0.05)
        sys.exit("no signal has stopped it")
    sys.exit(int(code))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
