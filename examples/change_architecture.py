"""Continues a run with one more layer, and shows what became of every array.

python examples/change_architecture.py outputs/base outputs/deeper
"""

# %% The config of the run, with another architecture.
import argparse
import json
from pathlib import Path

import clac_jax
from clac_jax.config.shipped import shipped_config
from clac_jax.errors import UserError

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("run", nargs="?", default="outputs/base", help="(default: %(default)s)")
parser.add_argument("workdir", nargs="?", default="outputs/deeper", help="(default: %(default)s)")
options = parser.parse_args()
RUN, WORKDIR = options.run, options.workdir
config = shipped_config("saved", f"{RUN}/config.json")
config.graph_encoder.num_interactions += 1
config.max_epochs += 1

# %% By default a checkpoint that does not fit is an error, which names every array.
config.resume_from = RUN
try:
    clac_jax.train(config, WORKDIR)
except UserError as error:
    print(error)

# %% Accept it: the new layer begins without effect, so that the model computes the same at first.
# With `restore.strict = False` instead, it starts from random weights.
config.restore.on_shape_mismatch = "grow"
clac_jax.train(config, WORKDIR)

# %% The account; `report["arrays"]` has it array by array.
report = json.loads((Path(WORKDIR) / "restore_report.json").read_text())
print(report["counts"])
