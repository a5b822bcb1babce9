"""`main.py`, which kills itself the n-th time that it reaches a point of the save protocol.

python killed_main.py POINT N ARGUMENTS...
"""

import os
import runpy
import signal
import sys
from pathlib import Path

from clac_jax.files import protocol

POINT, LEFT = sys.argv[1], [int(sys.argv[2])]


def reached(point):
    """Replaces `protocol.reached`."""
    if point == POINT:
        LEFT[0] -= 1
        if LEFT[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    protocol.reached = reached
    sys.argv[1:3] = []
    runpy.run_path(str(Path(__file__).parents[2] / "main.py"), run_name="__main__")
