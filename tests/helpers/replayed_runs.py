"""Short runs with a journal, trained inside the test process, and faults in them."""

import os
from pathlib import Path

import jax
import numpy as np

from clac_jax.training.parallel import Pmap
from clac_jax.training_run import train
from configs import smoke

STEPS_PER_EPOCH = 4
BATCH = 4


def tiny_config(data_dir, **changes):
    """A config of a run of four steps per epoch, which takes seconds."""
    config = smoke.get_config()
    config.dataset.data_dir = str(data_dir)
    config.dataset.max_examples = STEPS_PER_EPOCH * BATCH
    config.compilation_cache = os.environ["JAX_COMPILATION_CACHE_DIR"]
    config.logging.tensorboard = False
    config.input.max_batch_shapes = 1
    config.graph_encoder.name = "composition"
    config.use_visual_intramodal_loss = config.use_textual_intramodal_loss = False
    config.schedule = "constant"
    config.max_epochs = 1
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def blank_pictures(patch):
    """Makes reports without pixels: drawing takes a seventh of the time of a run."""
    from matplotlib.figure import Figure

    patch.setattr(Figure, "savefig", lambda figure, path, **_: Path(path).write_bytes(b""))


def train_with_flipped_bit(patch, config, workdir, fault):
    """Trains a run in which a bit of a parameter flips in memory right after a step.

    Args:
        patch: a `pytest.MonkeyPatch`.
        config: the run's config.
        workdir: its workdir.
        fault: (step, names of the parameter's path below "params", place, bit).
    """
    step, names, place, bit = fault
    original = Pmap.train

    def faulty(self, *arguments, **options):
        compiled = original(self, *arguments, **options)

        def do(state, batch):
            after, metrics = compiled(state, batch)
            if int(self.to_host(after.step)) == step:
                params = jax.tree.map(np.array, self.to_host(after.params))
                leaf = params
                for name in names:
                    leaf = leaf[name]
                leaf.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
                after = after.replace(params=self.put(params))
            return after, metrics

        return do

    with patch.context() as active:
        active.setattr(Pmap, "train", faulty)
        train(config, workdir)
