"""Trains the config of the file argv[1] in argv[2] until example data of step 7 cannot be read."""

import sys
from pathlib import Path

from clac_jax.data import RunData
from clac_jax.datasets.record import DataError
from clac_jax.train import train
from configs import saved

if __name__ == "__main__":
    original = RunData.train_batches

    def train_batches(self, epoch, start):
        for number, batch in enumerate(original(self, epoch, start)):
            if epoch == 1 and number == 2:
                raise DataError("Example 7 cannot be used.")
            yield batch

    RunData.train_batches = train_batches
    train(saved.get_config(sys.argv[1]), Path(sys.argv[2]))
