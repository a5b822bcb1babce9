"""Searches a folder of CIF files with a description.

python examples/search_cifs.py outputs/base@best examples/cifs
"""

# %% A trained model, and the crystals.
import argparse
from pathlib import Path

import numpy as np

import clac_jax

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("run", nargs="?", default="outputs/base@best", help="(default: %(default)s)")
parser.add_argument("folder", nargs="?", default="examples/cifs", help="(default: %(default)s)")
options = parser.parse_args()
RUN, FOLDER = options.run, options.folder
model = clac_jax.load(RUN)
files = sorted(Path(FOLDER).glob("*.cif"))
crystals = [clac_jax.Crystal.from_file(file) for file in files]
print(model)

# %% Embed them once: unit vectors, one per crystal. Keep them in a file for the next search.
vectors = model.embed_crystals(crystals)
np.savez("embedded.npz", names=[file.name for file in files], vectors=vectors)
print(f"{len(files)} crystals, vectors of {vectors.shape[1]} numbers in embedded.npz")

# %% Ask. A score is the cosine between description and crystal.
texts = [
    "A cubic chloride of sodium with the rock-salt structure. The compound is an insulator.",
    "A cubic oxide with the perovskite structure. Titanium-centered octahedra share corners.",
    "An elemental metal. Every atom has twelve neighbors. The structure is cubic.",
]
scores = model.embed_texts(texts) @ vectors.T
for text, row in zip(texts, scores, strict=True):
    print(f"\n{text}")
    for k in np.argsort(-row)[:3]:
        print(f"  {row[k]:6.3f}  {crystals[k].formula:10} {files[k].name}")

# %% The reverse: which description fits a crystal best?
best = texts[int(scores[:, 0].argmax())]
print(f"\n{files[0].name}: {best}")
