"""Forgeries: checkpoints and chains of a run rewritten with the right checksums."""

import dataclasses
import json
import shutil

import jax
import numpy as np
from etils import epath

from clac_jax.chain.record import CHAIN_FILE, new_entry, read_chain
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import read_info
from clac_jax.checkpoint.lineage import Recorder, arrays_digest
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.config.schema import from_plain
from clac_jax.journal.journal_file import STEPS_FILE, read_steps
from clac_jax.journal.record import StepRecord, header


class GivenRecord:
    """A chain that gives a checkpoint the record that the forger wants."""

    def __init__(self, record):
        self.record = record

    def sizes(self):
        return {}

    def extend(self, sizes, content):
        return self.record


def forge_checkpoint(workdir, step, change, adapt=False):
    """Rewrites a checkpoint with changed arrays, by the program itself.

    Args:
        workdir: the run.
        step: step of the checkpoint.
        change: receives slash path -> array, and changes them.
        adapt: whether its record is made to fit.
    """
    info = read_info(epath.Path(workdir) / "checkpoints" / str(step))
    arrays = {path: np.array(array) for path, array in read_arrays(info, info.leaves).items()}
    change(arrays)
    config = from_plain(info.config)
    config.checkpoint.async_save = False
    shapes = {path: jax.ShapeDtypeStruct(a.shape, a.dtype) for path, a in arrays.items()}
    forge = workdir.with_name(f"{workdir.name}_forge")
    record = info.record
    for attempt in range(2):
        shutil.rmtree(forge, ignore_errors=True)
        checkpoints = Checkpoints(
            forge, config, shapes, info.num_train_examples, data=dict(info.data)
        )
        checkpoints._config = info.config
        checkpoints.chain = Recorder(GivenRecord(record))
        checkpoints.save(arrays, info.progress, info.metrics)
        checkpoints.close()
        made = read_info(epath.Path(forge) / "checkpoints" / str(step))
        if not adapt or attempt:
            break
        record = {**record, "arrays": arrays_digest(made), "digests": {}}
    shutil.rmtree(info.folder)
    shutil.copytree(made.folder, info.folder)
    shutil.rmtree(forge)
    return record


def rewrite_chain(workdir, change):
    """Rewrites a chain so that all digests and parents fit.

    Args:
        workdir: the run.
        change: receives the records, and returns them.
    """
    entries = read_chain(workdir / CHAIN_FILE)
    records = change([dict(entry.record) for entry in entries])
    parent, lines = records[0]["parent"], []
    for record, entry in zip(records, entries, strict=False):
        made = new_entry({**record, "parent": parent}, entry.marks)
        parent = made.digest
        lines.append(made.to_line())
    (workdir / CHAIN_FILE).write_bytes(b"".join(lines))


def change_journal(workdir, number, **values):
    """Changes values of a record of a journal, with the right checksum."""
    rows = read_steps(workdir / STEPS_FILE)
    record = dataclasses.replace(StepRecord.from_row(rows[number]), **values)
    content = [rows[:number].tobytes(), record.to_bytes(), rows[number + 1 :].tobytes()]
    (workdir / STEPS_FILE).write_bytes(header() + b"".join(content))


def change_line(path, number, **values):
    """Changes values in a line of JSON."""
    lines = path.read_text().splitlines()
    lines[number] = json.dumps({**json.loads(lines[number]), **values})
    path.write_text("".join(f"{line}\n" for line in lines))


def reorder_lines(path, order):
    """Keeps some lines of a file, in an order."""
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{lines[k]}\n" for k in order(list(range(len(lines))))))
