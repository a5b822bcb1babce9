"""The chain that a run writes: a record per checkpoint, cut back when the run is started again."""

import json

import numpy as np
import pytest
from etils import epath
from helpers.states import make_config, shapes_of, small_arrays

from clac_jax.chain import chain_file
from clac_jax.chain.chain_file import ChainFile, Parent, end_chain
from clac_jax.chain.record import DamagedChainError, array_hash, joined_hash, read_chain
from clac_jax.chain.row_digests import fingerprint_of, read_row_digests, write_row_digests
from clac_jax.checkpoint.layout import read_all
from clac_jax.checkpoint.lineage import Recorder, arrays_digest, parent_of
from clac_jax.checkpoint.manager import Checkpoints
from clac_jax.checkpoint.resume import Origin
from clac_jax.errors import WorkdirError
from clac_jax.journal.journal_file import JournalFile
from clac_jax.journal.record import StepRecord
from clac_jax.proof.evidence import gather
from clac_jax.proof.links import check_links
from clac_jax.proof.rows import check_rows
from clac_jax.reporting.metrics_file import MetricsFile
from clac_jax.training.progress import RunProgress


class Start:
    """A start of a run that trains nothing, with its files."""

    def __init__(self, workdir, step=0, other=None):
        own = read_all(epath.Path(workdir) / "checkpoints")[0]
        workdir.mkdir(exist_ok=True)
        self.metrics = MetricsFile(workdir / "metrics.jsonl", step)
        self.journal = JournalFile(workdir, step)
        arrays = small_arrays()
        config = make_config(save_top_k=-1)
        self.checkpoints = Checkpoints(workdir, config, shapes_of(arrays))
        parent = parent_of(Origin(own, other=other), RunProgress(step=step))
        facts = {"start": self.journal.start}
        self.chain = ChainFile(workdir, parent, facts, bool(own) or other is None)
        self.checkpoints.chain = Recorder(self.chain)
        self.journal.write_event("start", step, {"config": {}})

    def do(self, *steps, saved=()):
        for step in steps:
            self.journal.write(StepRecord(step, 0, self.journal.start, 1.0 / step, 1.0, 1e-3))
            row = {"split": "train", "step": step, "epoch": 0, "loss": 1 / step}
            self.metrics.write(row)
            if step in saved:
                progress = RunProgress(step=step, examples_in_epoch=step)
                self.checkpoints.save(small_arrays(), progress, None)
        return self

    def end(self):
        self.checkpoints.close()
        for file in (self.metrics, self.journal, self.chain):
            file.close()


def unlike(workdir):
    evidence = gather(workdir)
    return [each.words for each in check_links(evidence.entries) + check_rows(evidence)]


def test_a_start_does_not_read_the_journal_again(tmp_path, monkeypatch):
    Start(tmp_path).do(1, 2, 3, saved=(2, 3)).end()
    read, names = chain_file._read, []
    monkeypatch.setattr(
        chain_file, "_read", lambda path, *ends: names.append(path.name) or read(path, *ends)
    )
    again = Start(tmp_path, 2)
    assert names == ["metrics.jsonl", "starts.jsonl"]
    again.do(3, 4, saved=(4,)).end()
    assert unlike(tmp_path) == []
    assert [e.record["steps"]["to"] for e in read_chain(tmp_path / "chain.jsonl")] == [2, 4]


def test_a_run_of_several_starts_has_one_chain(tmp_path):
    run = tmp_path / "run"
    Start(run).do(1, 2, 3, 4, 5, 6, saved=(2, 4, 6)).end()
    for step in (6, 4):  # the newest is lost
        if step == 6:
            (run / "checkpoints" / "6" / "files.json").unlink()
            (run / "checkpoints" / "6").rename(tmp_path / "lost")
    Start(run, 4).do(5, 6, 7).end()  # killed before it has saved
    Start(run, 4).do(5, 6, saved=(6,)).end()
    end_chain(run, 6)
    entries = read_chain(run / "chain.jsonl")
    facts = [(e.kind, e.step, e.record.get("start"), e.record["events"]["to"]) for e in entries]
    assert facts == [
        ("checkpoint", 2, 1, 1),
        ("checkpoint", 4, 1, 1),
        ("checkpoint", 6, 3, 3),
        ("end", 6, None, 3),
    ]
    assert unlike(run) == []
    own = read_all(epath.Path(run) / "checkpoints")[0]
    assert {step: info.record for step, info in own.items()} == {
        entry.step: entry.record for entry in entries[:-1]
    }
    assert own[6].record["arrays"] == arrays_digest(own[6])

    Start(run, 6).end()  # started again: the end is written again
    assert [entry.kind for entry in read_chain(run / "chain.jsonl")] == ["checkpoint"] * 3


def test_a_chain_begins_at_the_checkpoint_of_another_run(tmp_path):
    Start(tmp_path / "one").do(1, 2, saved=(2,)).end()
    other = read_all(epath.Path(tmp_path / "one") / "checkpoints")[0][2]
    Start(tmp_path / "two", other=other).do(1, saved=(1,)).end()
    (entry,) = read_chain(tmp_path / "two" / "chain.jsonl")
    assert entry.record["parent"] == read_chain(tmp_path / "one" / "chain.jsonl")[0].digest
    assert entry.record["origin"] == {"run": str(other.folder), "step": 2}
    assert unlike(tmp_path / "two") == []


def test_a_new_chain_follows_a_lost_one_and_a_proof_says_so(tmp_path, capsys):
    Start(tmp_path).do(1, 2, 3, 4, saved=(2, 4)).end()
    (tmp_path / "chain.jsonl").unlink()
    Start(tmp_path, 4).do(5, saved=(5,)).end()
    assert "has no record of the checkpoint of step 4" in capsys.readouterr().err
    assert [entry.step for entry in read_chain(tmp_path / "chain.jsonl")] == [4, 5]
    (finding,) = [words for words in unlike(tmp_path) if "chain.jsonl" in words]
    assert finding == "chain.jsonl, line 1 (step 4): the records before it are missing"


def test_a_chain_cut_off_by_a_kill_is_read_and_another_file_is_refused(tmp_path):
    Start(tmp_path).do(1, 2, saved=(1, 2)).end()
    path = tmp_path / "chain.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    assert [entry.step for entry in read_chain(path)] == [1]
    path.write_bytes(b'{"record": 1}\n' + content)
    with pytest.raises(DamagedChainError, match="line 1 is not a record"):
        read_chain(path)
    assert [entry.line for entry in gather(tmp_path).entries] == [2, 3]


def test_a_save_that_is_tried_again_has_one_record(tmp_path):
    Start(tmp_path).end()
    chain = ChainFile(tmp_path, Parent(), {"start": 1}, True)
    sizes, content = chain.sizes(), {"step": 3}
    record = chain.extend(sizes, content)
    assert chain.extend(sizes, content) == record
    assert (
        chain.extend(sizes, {"step": 4})["parent"] == read_chain(tmp_path / "chain.jsonl")[0].digest
    )
    (tmp_path / "metrics.jsonl").write_text("no row\n")
    with pytest.raises(WorkdirError, match=r"metrics.jsonl holds something that the run has not"):
        chain.extend(chain.sizes(), {"step": 5})
    chain.close()


def test_hashes_cover_dtype_shape_and_every_bit():
    array = np.arange(6, dtype=np.float32)
    others = [array.reshape(2, 3), array.view(np.int32), array + np.float32(1e-6)]
    assert len({array_hash(each) for each in [array, *others]}) == 4
    assert joined_hash([array_hash(array)]) == array_hash(array)
    assert joined_hash(["a", "b"]) != joined_hash(["b", "a"])


def test_digests_of_rows_are_read_as_written(tmp_path):
    digests = {"train": np.array([1, 2**63], np.uint64), "test": np.zeros(0, np.uint64)}
    assert read_row_digests(tmp_path) == {}
    write_row_digests(tmp_path, digests)
    again = read_row_digests(tmp_path)
    assert {split: each.tolist() for split, each in again.items()} == {
        split: each.tolist() for split, each in digests.items()
    }
    assert len(fingerprint_of(again["train"])) == 32
    path = tmp_path / "data.digests"
    path.write_bytes(path.read_bytes()[:-1])
    assert read_row_digests(tmp_path) == {}
    path.write_text(json.dumps({"rows": 7}))
    assert read_row_digests(tmp_path) == {}
