"""Stores a small run of this version's checkpoint format, for the tests of later versions.

    python tools/store_format.py tests/data/formats/3

To be run from the clone's folder, by the version that introduces a format, right before its
release. Trains the smoke run to its end, and once more up to a stop in its second epoch. FOLDER/run
becomes the workdir of the stopped run; FOLDER/expected.json holds what the complete run has logged
and saved after that point, which is what a later version that resumes it must get to.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
STOPPED_AT = 13
TIMES = ("examples_per_second", "data_wait_fraction")


def main() -> None:
    """Trains, stops and stores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    # As the tests compile: tests/conftest.py. On two devices, so that arrays are saved in shards.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2",
    )
    from clac_jax.training_run import train

    with tempfile.TemporaryDirectory() as temporary:
        complete = Path(temporary) / "complete"
        train(_config(), complete)
        run = folder / "run"
        run.mkdir(parents=True)
        steps = {int(each.name): each for each in (complete / "checkpoints").glob("[0-9]*")}
        for step, checkpoint in steps.items():
            if step <= STOPPED_AT:  # the best so far too, where it has stayed the best
                shutil.copytree(checkpoint, run / "checkpoints" / checkpoint.name)
        shutil.copy(complete / "config.json", run)
        rows = [json.loads(line) for line in (complete / "metrics.jsonl").open()]
        before = [row for row in rows if row["step"] <= STOPPED_AT]
        lines = "".join(json.dumps(row) + "\n" for row in before)
        (run / "metrics.jsonl").write_text(lines)
        newest = max(steps)
        leaves = json.loads((steps[newest] / "run" / "metadata").read_text())["leaves"]
        after = [{k: v for k, v in row.items() if k not in TIMES} for row in rows[len(before) :]]
        expected = {"step": newest, "rows": after, "arrays": leaves}
        (folder / "expected.json").write_text(json.dumps(expected, sort_keys=True) + "\n")


def _config():
    """The smoke run with dropout, masked tokens, one loss and few words; paths from the clone's."""
    from configs import smoke

    config = smoke.get_config()
    config.compilation_cache = ""
    config.logging.tensorboard = False
    config.text_encoder.tokenizer = "tests/data/lightning/hf_bert"
    config.text_encoder.dropout = 0.1
    config.augment.mask_prob = 0.15
    config.use_visual_intramodal_loss = config.use_textual_intramodal_loss = False
    config.frozen = ("text_encoder/(word|position|type)_embedding/.*",)
    config.schedule = "cosine"
    config.parallel, config.sharding.what = "shard_map", "everything"
    config.sharding.min_elements = 1024
    config.checkpoint.keep_every_n_steps = STOPPED_AT
    config.checkpoint.save_top_k = 1
    return config


if __name__ == "__main__":
    main()
