"""A run proves itself; whatever is changed in it is named."""

import dataclasses
import os
import shutil

import numpy as np
import pytest
from etils import epath
from helpers.forged import (
    change_journal,
    change_line,
    forge_checkpoint,
    reorder_lines,
    rewrite_chain,
)

from clac_jax.api import load
from clac_jax.chain.record import new_entry
from clac_jax.checkpoint.arrays import read_arrays
from clac_jax.checkpoint.layout import read_info
from clac_jax.inference.publish import publish
from clac_jax.inference.published_proof import prove_published
from clac_jax.proof.evidence import gather
from clac_jax.proof.kept import keep, sign_run
from clac_jax.proof.proof import compare_files, prove
from clac_jax.proof.segments import Limits, Stretch, stretches
from clac_jax.proof.signature import new_key, read_private_key, read_public_key
from clac_jax.replay.history import read_history
from clac_jax.replay.replayer import Replayer
from clac_jax.replay.usage import blame

STEPS = 8
COMPARE = Limits(segments=0)


def found(workdir, limits=COMPARE):
    proof = prove(str(workdir), limits, say=lambda line: None)
    assert proof.is_proven == (not proof.findings)
    return [finding.words for finding in proof.findings]


def weight_of(arrays):
    return next(path for path in arrays if path.startswith("params/cross_head"))


def flip(arrays):
    array = arrays[weight_of(arrays)]
    array.reshape(-1).view(np.uint32)[0] ^= 1


def test_a_run_proves_itself(run):
    proof = prove(str(run), Limits(segments=9, steps=0), say=lambda line: None)
    assert proof.findings == []
    assert [each.steps for each in proof.segments] == ["1-2", "3-4", "5-6", "7-8"]
    assert all(each.is_equal and each.arrays == [] for each in proof.segments)
    lines = proof.lines()
    assert lines[0].startswith("chain     5 records, steps 2 to 8, ended; last ")
    assert lines[1].startswith("compared  11 rows, 8 steps, 1 start, 4 checkpoints, 48 examples")
    assert lines[2:] == ["steps     1-2, 3-4, 5-6, 7-8 recomputed: equal", "proven."]


CASES = {
    "a metric of a step": (
        lambda run: change_line(run / "metrics.jsonl", 2, loss=1.0),
        "metrics.jsonl, line 3 (train row of step 3): was changed: loss is 1.0 and in "
        "steps.journal",
    ),
    "a validation": (
        lambda run: change_line(run / "metrics.jsonl", 4, val_loss=1.0),
        "metrics.jsonl, line 5 (val row of step 4): was changed: val_loss is 1.0 and in the chain",
    ),
    "the test": (
        lambda run: change_line(run / "metrics.jsonl", 10, text_to_crystal_top1=0.99),
        "metrics.jsonl, line 11 (test row of step 8): was changed",
    ),
    "a row removed": (
        lambda run: reorder_lines(run / "metrics.jsonl", lambda k: k[:3] + k[4:]),
        "metrics.jsonl, line 4: is missing",
    ),
    "a key of the config": (
        lambda run: replace(run / "config.json", '"batch_size": 4', '"batch_size": 8'),
        "config.json: was changed: batch_size is 8 and was 4",
    ),
    "the config of a start": (
        lambda run: replace(run / "starts.jsonl", '"batch_size": 4', '"batch_size": 8'),
        "starts.jsonl, line 1 (start number 1 at step 0): was changed: batch_size is 8 and was 4",
    ),
    "a record of the journal": (
        lambda run: change_journal(run, 3, loss=1.0),
        "steps.journal, record 4 (step 4): was changed: loss is 1.0 and in metrics.jsonl",
    ),
    "a record of the chain": (
        lambda run: replace(run / "chain.jsonl", '"step": 4, "progress"', '"step": 5, "progress"'),
        "chain.jsonl, line 2 (step 5): the record was changed",
    ),
    "the order of records": (
        lambda run: reorder_lines(run / "chain.jsonl", lambda k: [0, 2, 1, *k[3:]]),
        "chain.jsonl, line 2 (step 6): out of order: it follows the record in line 3",
    ),
    "a record removed": (
        lambda run: reorder_lines(run / "chain.jsonl", lambda k: [0, *k[2:]]),
        "chain.jsonl, line 2 (step 6): its parent is missing",
    ),
    "the first record removed": (
        lambda run: reorder_lines(run / "chain.jsonl", lambda k: k[1:]),
        "chain.jsonl, line 1 (step 4): the records before it are missing",
    ),
    "the end of the chain cut off": (
        lambda run: reorder_lines(run / "chain.jsonl", lambda k: k[:3]),
        "checkpoints/8: its record is missing in chain.jsonl, whose end was cut off",
    ),
    "the last record cut off": (
        lambda run: reorder_lines(run / "chain.jsonl", lambda k: k[:-1]),
        "chain.jsonl: has no record of the end, but metrics.jsonl has a test row",
    ),
    "the report": (
        lambda run: (run / "report.png").write_bytes(b"another"),
        "report.png: is not the file that the run has written",
    ),
    "a flipped bit on the disk": (
        lambda run: flip_byte(max((run / "checkpoints/4/state").rglob("*"), key=size)),
        "checkpoints/4: is damaged: ",
    ),
    "a weight, with the right checksums": (
        lambda run: forge_checkpoint(run, 4, flip),
        "checkpoints/4/run/metadata, leaves: the SHA-256 of its arrays are not those of the chain",
    ),
    "a checkpoint of another run in place of one": (
        lambda run: swap(run, 4),
        "checkpoints/4: is not the checkpoint in line 2 of chain.jsonl: arrays, digests differ",
    ),
}


def replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def size(path):
    return path.stat().st_size if path.is_file() else -1


def flip_byte(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def swap(run, step):
    """Another run with this name has trained to the same step, with its own chain."""
    info = read_info(epath.Path(run) / "checkpoints" / str(step))
    forge_checkpoint(run, step, flip, adapt=True)
    assert read_info(info.folder).record != info.record


@pytest.mark.parametrize("case", CASES)
def test_every_change_is_named(case, copy):
    change, words = CASES[case]
    change(copy)
    findings = [finding.words for finding in compare_files(gather(copy))]
    assert [each for each in findings if each.startswith(words)], findings


@pytest.mark.slow
def test_a_weight_is_found_though_the_chain_was_forged_to_its_end(copy):
    record = forge_checkpoint(copy, 4, flip, adapt=True)
    rewrite_chain(copy, lambda records: [r if r["step"] != 4 else record for r in records])
    for step in (6, 8):
        shutil.rmtree(copy / "checkpoints" / str(step))
    findings = found(copy, Limits(segments=9, seed=0))
    assert any(f.startswith("checkpoints/4, params: digest ") for f in findings), findings
    (wrong,) = [f for f in findings if f.startswith("steps ")]
    assert wrong.startswith("steps 3-4: 1 array DIFFERS: params/cross_head")


def test_a_row_of_the_data_is_named(copy, monkeypatch):
    from clac_jax.datasets.record import Record

    original = Record.digest
    seen = []

    def digest(self):
        seen.append(self.material_id)
        return original(self) + (len(seen) == 3)

    monkeypatch.setattr(Record, "digest", digest)
    (finding,) = found(copy)
    assert finding == f"the train split, row 3 ({seen[2]}): was changed"


@pytest.mark.slow
def test_another_machine_agrees_within_a_tolerance(copy, monkeypatch):
    from clac_jax.proof import segments
    from clac_jax.replay.replayer import Done, Replayer

    original = Replayer.do

    def do(self, batch=None):
        done = original(self, batch)
        digests = {**done.digests, "loss": done.digests["total"]}
        metrics = {**done.metrics, "loss": done.metrics["loss"] * (1 + 3e-6)}
        return Done(done.step, done.before, metrics, digests)

    monkeypatch.setattr(Replayer, "do", do)
    limits = Limits(segments=1, steps=1, seed=0)
    (finding,) = found(copy, limits)
    assert "DIFFERS in the loss" in finding  # nothing is different here that could explain it

    monkeypatch.setattr(segments, "cpu_model", lambda: "another processor")
    proof = prove(str(copy), limits, say=lambda line: None)
    assert proof.is_proven
    (segment,) = proof.segments
    assert not segment.is_equal
    assert segment.words.startswith("agrees within 3.0e-06 (tolerance 1e-03), not bit for bit, ")
    assert "is another processor" in segment.words
    assert proof.lines()[-1].startswith("proven, up to rounding")
    (finding,) = found(copy, Limits(segments=1, steps=1, seed=0, tolerance=1e-7))
    assert "DIFFERS in the loss, by 3.0e-06 (tolerance 1e-07), although the processor" in finding


def test_a_run_without_a_chain_says_so(copy):
    (copy / "chain.jsonl").unlink()
    proof = prove(str(copy), COMPARE, say=lambda line: None)
    assert not proof.is_proven
    first, *_, verdict = proof.lines()
    assert "none in chain.jsonl: the checkpoints have records of one" in first
    assert "put chain.jsonl back" in verdict
    assert [f.where for f in proof.findings] == [f"checkpoints/{step}" for step in (2, 4, 6, 8)]
    assert "was removed or emptied" in proof.findings[0].what

    older = dataclasses.replace(proof, has_lost_chain=False, findings=[])
    assert not older.is_proven
    first, *_, verdict = older.lines()
    assert "an earlier version of clac_jax, which wrote none" in first
    assert "compared: intact" in verdict and "a chain begins at the checkpoint" in verdict


def test_devices_are_those_of_the_run_before_an_array_is_read(run, monkeypatch):
    history = read_history(str(run))
    (start,) = history.starts
    devices, config = {**start.devices, "count": 2}, {**start.config, "deterministic": True}
    divided = dataclasses.replace(start, devices=devices, config=config)
    then, flags = dataclasses.replace(history, starts=[divided]), []

    def read(info, paths):
        flags.append(os.environ["XLA_FLAGS"].split())
        return read_arrays(info, paths)

    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setattr("clac_jax.replay.history.read_history", lambda run: then)
    monkeypatch.setattr("clac_jax.proof.saved.read_arrays", read)
    monkeypatch.setattr("clac_jax.proof.proof.recompute", lambda *arguments: [])
    prove(str(run), Limits(), say=lambda line: None)
    assert {
        "--xla_force_host_platform_device_count=2",
        "--xla_gpu_deterministic_ops=true",
    } == set(flags[0])


def test_a_beginning_that_is_gone_is_noted_and_not_held_against_the_run(run, monkeypatch):
    origin = {"run": str(run.with_name("other") / "checkpoints" / "4"), "step": 4}
    began = dataclasses.replace(
        read_history(str(run)), checkpoints={}, first_record={"parent": None, "origin": origin}
    )
    monkeypatch.setattr("clac_jax.replay.history.read_history", lambda run: began)
    proof = prove(str(run), Limits(), say=lambda line: None)
    assert proof.is_proven and not proof.segments
    (note,) = proof.notes
    assert note.endswith("checkpoints/4, which does not exist any more. Put it back.")
    assert f"note      {note}" in proof.lines()
    assert proof.lines()[-1].startswith("intact: ")


def test_a_run_that_continues_another_is_computed_again_from_it(run, tmp_path):
    history = read_history(str(run))
    middle = STEPS // 2
    parent, (start,) = history.checkpoints[middle], history.starts
    continued = dataclasses.replace(
        history,
        starts=[dataclasses.replace(start, step=middle)],
        journal=dataclasses.replace(history.journal, steps=history.journal.steps[middle:]),
        checkpoints={STEPS: history.checkpoints[STEPS]},
        first_record={
            "parent": new_entry(parent.record).digest,
            "origin": {"run": str(parent.folder), "step": middle},
        },
    )
    assert stretches(continued, STEPS) == [Stretch(middle + 1, STEPS)]
    lines = []
    replayer = Replayer(continued, tmp_path, lines.append)
    replayer.go_to(middle + 1)
    assert lines == [f"restored  {parent.folder}"]
    done = replayer.do()
    assert done.digests == {**done.digests, **history.digests(middle + 1)}
    for index in ("0", "5"):
        uses = blame(history, index).uses
        assert blame(continued, index).uses == [use for use in uses if use.step > middle]


def test_signed_kept_and_published(copy, tmp_path):
    public = new_key(tmp_path / "key")
    sign_run(str(copy), copy, read_private_key(tmp_path / "key"))
    proof = prove(str(copy), COMPARE, read_public_key(public), say=lambda line: None)
    assert proof.is_proven
    assert any("of the last record (up to step 8): valid" in line for line in proof.lines())
    keep(proof, copy)

    folder = publish(f"{copy}@step=4", tmp_path / "model")
    card = (folder / "README.md").read_text()
    assert f"SHA-256 of the last `{proof.digest}`" in card
    assert "all files compared, no step recomputed; proven (on " in card
    assert load(folder).step == 4
    published = prove_published(folder, read_public_key(public))
    assert published.is_proven, published.findings
    replace(folder / "config.json", '"projection_dim": 16', '"projection_dim": 32')
    words = [finding.words for finding in prove_published(folder).findings]
    assert "config.json, projection_dim: is 32 and was 16" in words

    reorder_lines(copy / "chain.jsonl", lambda k: k[:-1])
    assert any("is not in the chain any more" in f for f in found(copy))
