"""Short runs inside the test process, and their results."""

import numpy as np
from etils import epath

from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import read_info
from clac_jax.distributed.preemption import StopSignals
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.reporting.metrics_file import TIMING_FIELDS, read_rows

STEPS_PER_EPOCH = 4
BATCH = 4


def arrays_at(workdir, step):
    info = read_info(epath.Path(workdir) / "checkpoints" / str(step))
    return read_arrays(info, info.leaves)


def batches_that_end_with(error, after):
    """`RunData.train_batches` with an error in the second epoch."""
    original = RunData.train_batches

    def train_batches(self, epoch, start):
        for number, batch in enumerate(original(self, epoch, start)):
            if epoch == 1 and number == after:
                raise error
            yield batch

    return train_batches


class StopsAt(StopSignals):
    """Requests a stop at the n-th query."""

    def __init__(self, questions):
        super().__init__()
        self.left = questions

    @property
    def requested(self):
        self.left -= 1
        return self.left == 0


def train_rows(workdir):
    return [row for row in read_rows(workdir / "metrics.jsonl") if row["split"] == "train"]


def untimed(row):
    return {name: value for name, value in row.items() if name not in TIMING_FIELDS}


def assert_same(left, right):
    assert set(left) == set(right)
    for path, leaf in left.items():
        np.testing.assert_array_equal(leaf, right[path], err_msg=path)
