"""Trains a model of a property on top of a contrastive run, and predicts with it.

python examples/finetune_property.py outputs/base@best outputs/band_gap
"""

# %% The config: the graph encoder of RUN, a new head, and a property of the data set.
import argparse

import clac_jax
from clac_jax.config.shipped import shipped_config

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("run", nargs="?", default="outputs/base@best", help="(default: %(default)s)")
parser.add_argument("workdir", nargs="?", default="outputs/band_gap", help="(default: %(default)s)")
parser.add_argument("config", nargs="?", default="", help="config.json of RUN, if it is not `base`")
options = parser.parse_args()
RUN, WORKDIR, CONFIG = options.run, options.workdir, options.config

config = shipped_config("finetune_property", "band gap")
if CONFIG:  # the sizes of a run that is not `base`
    trained = shipped_config("saved", CONFIG)
    for group in ("graph_encoder", "dataset", "input"):
        config[group] = trained[group]
    config.compilation_cache = trained.compilation_cache
    config.max_epochs, config.batch_size, config.warmup_steps = 1, 4, 0
config.resume_from = RUN

# %% Train. The same call, run again, resumes.
test = clac_jax.train(config, WORKDIR)
print({name: round(value, 3) for name, value in test.items() if "mae" in name})

# %% Predict for crystals of your own, in the unit of the training data (here eV).
model = clac_jax.load(f"{WORKDIR}@best")
files = ["examples/cifs/halite.cif", "examples/cifs/copper.cif"]
for file, gap in zip(files, model.predict(files), strict=True):
    print(f"{file}: {gap:.2f} eV")
