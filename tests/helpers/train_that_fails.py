"""Trains the config file argv[1] in the workdir argv[2] until the data of step 7 fail."""

import sys
from pathlib import Path

from clac_jax.datasets.record import DataError
from clac_jax.input_pipeline.run_data import RunData
from clac_jax.training_run import train
from configs import saved
from helpers.small_runs import batches_that_end_with

if __name__ == "__main__":
    RunData.train_batches = batches_that_end_with(DataError("Example 7 cannot be used."), after=2)
    train(saved.get_config(sys.argv[1]), Path(sys.argv[2]))
