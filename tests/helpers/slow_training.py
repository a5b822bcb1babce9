"""`clac-jax`, with training steps that take as long as a file says, so that a test can interfere.

The file is named by PACE_FILE and holds seconds; it may change during the run. It holds for
the trials of a sweep as well.
"""

import os
import sys
import time
from pathlib import Path

from clac_jax.cli.main import run
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.sweeps import trial_run

if __name__ == "__main__":
    original = RunData.train_batches

    def train_batches(self, epoch, start):
        for batch in original(self, epoch, start):
            time.sleep(float(Path(os.environ["PACE_FILE"]).read_text()))
            yield batch

    RunData.train_batches = train_batches
    trial_run.program = lambda: [sys.executable, __file__]
    run(sys.argv[1:])
