"""Data sets prepared from tables: order, memory, and failures during a build."""

import errno
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from helpers.user_tables import load_all, records_of, row, write

from clac_jax.datasets import builder as builder_lib
from clac_jax.datasets import manifest, table
from clac_jax.datasets.record import DataError
from clac_jax.datasets.rows import record_of_row
from clac_jax.datasets.split import SPLITS
from clac_jax.datasets.spool import Spool
from clac_jax.files.paths import PathError

prepare_lib = importlib.import_module("clac_jax.datasets.prepare")  # the name is also a function


def command(path, data_dir, *flags):
    start = [sys.executable, "-m", "clac_jax", "data", "prepare", "--name=gpt_narratives"]
    return [*start, f"--path={path}", f"--data_dir={data_dir}", *flags]


def limited(limit, arguments):
    """Runs a command with a `ulimit` of the shell."""
    shell = ["sh", "-c", f'ulimit {limit} && exec "$@"', "sh"]
    return subprocess.run([*shell, *arguments], capture_output=True, text=True)


def files_in(data_dir):
    return sorted(path.name for path in Path(data_dir).rglob("*") if path.is_file())


class TfdsBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A builder with the same records that TFDS itself writes."""

    VERSION = tfds.core.Version("1.0.0")
    records = ()

    def _info(self):
        return builder_lib.RecordBuilder._info(self)

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples() for split in SPLITS}

    def _generate_examples(self):
        for record in self.records:
            yield record.material_id, record.to_example()


def test_the_order_is_that_of_tfds(tmp_path):
    names = ["a/b", "a\\c", "Å", *(f"m-{k}" for k in range(200))]
    records = [record_of_row(row(k, id=name)) for k, name in enumerate(names)]
    reference = TfdsBuilder(data_dir=str(tmp_path), file_format="array_record")
    reference.records = records
    with builder_lib.quiet():
        reference.download_and_prepare()
    with Spool(tmp_path, lambda example: example["material_id"].encode()) as spool:
        for record in records:
            spool.add(record)
        for split in SPLITS:
            order = spool.tfds_order(split, np.arange(len(records)))
            written = [e["material_id"] for e in reference.as_data_source(split=split)]
            assert [spool.read(k) for k in order] == written
    assert not list(tmp_path.glob("spool.*"))


def test_a_prepared_data_set_is_read_by_tfds(tmp_path):
    splits = load_all(write(tmp_path / "t.jsonl", [row(k) for k in range(20)]), tmp_path / "data")
    (info,) = tmp_path.rglob("dataset_info.json")
    builder = tfds.builder_from_directory(info.parent)
    assert builder.info.splits["train"].num_examples == 16
    names = [e["material_id"].decode() for e in builder.as_data_source(split="train")]
    assert names == [record.material_id for record in splits["train"]]


def test_a_split_is_written_in_shards_of_tfds_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr(
        builder_lib.shard_utils.ShardConfig, "get_number_shards", lambda self, size, count: 4
    )
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(50)])
    splits = load_all(path, tmp_path / "data")
    assert len(list(tmp_path.rglob("*-train.array_record-0000?-of-00004"))) == 4
    assert len({record.material_id for record in splits["train"]}) == 40


def test_a_split_larger_than_tfds_shuffles_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.shuffle.MAX_MEM_BUFFER_SIZE", 1000)
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(50)])
    assert len(records_of(path, tmp_path / "data")) == 50  # without importing TensorFlow


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(tmp_path):
    # 150 MB of highly compressible text.
    text = pa.array(["word " * 20_000])
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1500, np.int32)), text)
    atoms = [row(0)["atoms"]] * 1500
    pq.write_table(pa.table({"gpt_text": texts, "atoms": atoms}), tmp_path / "t.parquet")
    small = write(tmp_path / "small.parquet", [row(k) for k in range(20)])
    script = f"""
from clac_jax.datasets import prepare
def peak():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10
prepare("gpt_narratives", {str(tmp_path)!r}, {str(small)!r})
before = peak()
prepare("gpt_narratives", {str(tmp_path)!r}, {str(tmp_path / "t.parquet")!r})
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not done.stderr
    assert int(done.stdout) < 75


def test_a_file_size_limit_stops_the_build_with_one_line(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(k, gpt_text="x" * 10_000) for k in range(300)])

    done = limited("-f 2048", command(path, tmp_path / "data"))  # in units of 512 bytes or 1 KiB
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "raise it (ulimit -f)" in done.stderr
    assert files_in(tmp_path / "data") == []


def test_a_full_disk_during_the_build_is_reported(tmp_path, monkeypatch):
    class Full:
        def __init__(self, path, options):
            pass

        def write(self, record):
            raise RuntimeError("write() failed: No space left on device; writing x; at byte 5")

    monkeypatch.setattr(builder_lib, "ArrayRecordWriter", Full)
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    with pytest.raises(DataError, match=r"device\. The disk is full.* A build needs about twice"):
        load_all(path, tmp_path / "data")
    assert files_in(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space .* A build needs about twice the uncompressed size"),
        (errno.EACCES, "Get permission.*location\\.$"),
        (errno.EROFS, "mounted read-only.*writing\\.$"),
        (errno.ENAMETOOLONG, "shorter name\\.$"),
    ],
)
def test_the_advice_fits_what_went_wrong(tmp_path, monkeypatch, number, advice):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(prepare_lib.crystal_table, "write", fail)
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    with pytest.raises(DataError, match=advice):
        load_all(path, tmp_path / "data")


def test_a_name_that_is_too_long_is_refused(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    with pytest.raises(PathError, match="shorter name") as error:
        load_all(path, tmp_path / ("x" * 300))
    assert len(str(error.value)) < 600


def test_an_unusable_path_is_refused(tmp_path):
    for path, reason in (
        ("x" * 300, "Choose a shorter"),
        ("~unknown-here/t.csv", "Write the path"),
    ):
        with pytest.raises(PathError, match=rf"dataset\.path .*{reason}"):
            load_all(path, tmp_path)


@pytest.fixture(scope="module")
def slow_table(tmp_path_factory):
    """A table whose build takes seconds."""
    return write(tmp_path_factory.mktemp("slow") / "t.jsonl", [row(k) for k in range(20_000)])


def start_build(path, data_dir):
    process = subprocess.Popen(command(path, data_dir), stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path(data_dir).rglob("spool.records")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_build_stopped_by_a_signal_leaves_no_files(slow_table, tmp_path, number):
    process = start_build(slow_table, tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert said == f"{number.name}: stopped; no partial files remain.\n"
    assert files_in(tmp_path) == []


def test_the_next_build_removes_the_files_of_a_killed_one_but_not_of_a_running_one(
    slow_table, tmp_path
):
    process = start_build(slow_table, tmp_path)
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    load_all(path, tmp_path)
    assert files_in(tmp_path).count("spool.records") == 1  # belongs to a running process
    process.kill()
    process.communicate()
    load_all(path, tmp_path, on_bad_row="skip")
    assert files_in(tmp_path).count("spool.records") == 0


def test_a_table_that_changes_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    original = Spool.repeated_ids

    def repeated_ids(self):
        path.write_text(path.read_text().replace("salt", "SALT"))  # equal length
        os.utime(path, (1e9, 1e9))
        return original(self)

    os.utime(path, (1e9, 1e9))
    monkeypatch.setattr(Spool, "repeated_ids", repeated_ids)
    with pytest.raises(DataError, match="changed while it was read"):
        load_all(path, tmp_path / "data")


def test_content_with_unchanged_size_and_time_is_a_different_data_set(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    os.utime(path, (1e9, 1e9))
    before = load_all(path, tmp_path / "data")["train"]
    path.write_text(path.read_text().replace("salt", "SALT"))
    os.utime(path, (1e9, 1e9))
    after = load_all(path, tmp_path / "data")["train"]
    assert "SALT" in after[0].gpt_explanation
    assert before.fingerprint != after.fingerprint


def test_the_fingerprint_depends_only_on_the_content(tmp_path):
    rows = [row(k) for k in range(20)]
    first = load_all(write(tmp_path / "t.jsonl", rows), tmp_path / "one")
    second = load_all(write(tmp_path / "u.parquet", rows), tmp_path / "two")
    prints = {split: records.fingerprint for split, records in first.items()}
    assert prints == {split: records.fingerprint for split, records in second.items()}
    assert len(set(prints.values())) == 3


def test_many_bad_rows_are_listed_in_order_with_repeated_ids_among_them(tmp_path, capsys):
    rows = [row(k) for k in range(60)]
    for k in range(0, 60, 2):
        rows[k] = row(k, gpt_text="", gpt_explanation="") if k % 4 else row(k, id="m-1")
    path = write(tmp_path / "t.jsonl", rows)
    records = records_of(path, tmp_path / "data", on_bad_row="skip")
    assert set(records) == {f"m-{k}" for k in range(1, 60, 2)}
    (listed,) = (tmp_path / "data").rglob("skipped_rows.jsonl")
    entries = [json.loads(line) for line in listed.read_text().splitlines()]
    numbers = [entry["row"] for entry in entries]
    assert numbers == sorted(numbers) and len(numbers) == 30
    assert not list((tmp_path / "data").rglob("*.part"))
    assert "30 rows skipped" in capsys.readouterr().out


@pytest.mark.parametrize("error", [ZeroDivisionError, OverflowError, RecursionError, KeyError])
def test_an_unforeseen_error_in_a_row_makes_a_bad_row(tmp_path, monkeypatch, error):
    def fail(row, number, *others):
        if number == 3:
            raise error("surprise")
        return record_of_row(row, number, *others)

    monkeypatch.setattr(table, "record_of_row", fail)
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    with pytest.raises(DataError, match=rf"row 3 \(m-3\): .*{error.__name__}: '?surprise"):
        load_all(path, tmp_path / "data")
    assert len(records_of(path, tmp_path / "data", on_bad_row="skip")) == 19


def test_system_errors_are_not_attributed_to_a_row(tmp_path, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    monkeypatch.setattr(table, "record_of_row", fail)
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])
    with pytest.raises(MemoryError):
        load_all(path, tmp_path / "data", on_bad_row="skip")
    assert files_in(tmp_path / "data") == []


def test_the_reason_is_given_if_all_rows_are_skipped(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(k, atoms=None) for k in range(20)])
    with pytest.raises(
        DataError, match=r"no usable row for the train split.*20 rows, the first: .*neither atoms"
    ):
        load_all(path, tmp_path / "data", on_bad_row="skip")


def test_long_and_unusual_ids_are_shortened(tmp_path):
    rows = [row(k, gpt_text="", gpt_explanation="", id="i\n\ud83d" * 50_000) for k in range(9)]
    path = write(tmp_path / "t.jsonl", rows)
    done = subprocess.run(command(path, tmp_path / "data"), capture_output=True, text=True)
    assert done.returncode == 2
    assert len(done.stderr) < 3000
    assert done.stderr.count("\n") == 11  # a header, nine rows, advice


DAMAGE = {
    "cut off": lambda file: os.truncate(file, file.stat().st_size // 2),
    "removed": os.unlink,
    "one bit": lambda file: flip(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
}
FILES = ("*-train.array*", "*-test.array*", "dataset_info.json", "features.json", "crystals.npz")


def flip(file, place):
    with open(file, "r+b") as handle:
        handle.seek(place)
        bits = handle.read(1)[0]
        handle.seek(place)
        handle.write(bytes([bits ^ 1]))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    path = write(folder / "t.jsonl", [row(k) for k in range(100)])
    load_all(path, folder / "data")
    return path, folder / "data"


@pytest.mark.parametrize("pattern", [*FILES, manifest.FILE])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found_at_the_start(prepared, tmp_path, pattern, damage):
    path, data_dir = prepared
    shutil.copytree(data_dir, tmp_path / "data")
    (file,) = (tmp_path / "data").rglob(pattern)
    DAMAGE[damage](file)
    with pytest.raises(DataError, match=r"is damaged: .*Delete that folder") as error:
        load_all(path, tmp_path / "data")
    assert file.name in str(error.value)


def test_swapped_splits_are_detected(prepared, tmp_path):
    path, data_dir = prepared
    shutil.copytree(data_dir, tmp_path / "data")
    (one,), (other,) = ((tmp_path / "data").rglob(f"*-{s}.array*") for s in ("train", "test"))
    one.rename(tmp_path / "x")
    other.rename(one)
    (tmp_path / "x").rename(other)
    with pytest.raises(DataError, match="train"):
        load_all(path, tmp_path / "data")


@pytest.mark.parametrize("damage", ["cut off", "one bit"])
def test_sizes_and_both_ends_of_large_splits_are_checked(prepared, tmp_path, monkeypatch, damage):
    path, data_dir = prepared
    monkeypatch.setattr(manifest, "FULL_CHECK_BYTES", 0)
    monkeypatch.setattr(manifest, "END_BYTES", 200)
    shutil.copytree(data_dir, tmp_path / "data")
    (listed,) = (tmp_path / "data").rglob(manifest.FILE)
    listed.unlink()
    manifest.write(listed.parent, [])
    assert len(load_all(path, tmp_path / "data")["train"]) == 80
    (file,) = (tmp_path / "data").rglob("*-train.array*")
    if damage == "cut off":
        os.truncate(file, file.stat().st_size - 1)
    else:
        flip(file, file.stat().st_size - 100)
    with pytest.raises(DataError, match="is damaged"):
        load_all(path, tmp_path / "data")


@pytest.mark.parametrize("damage", ["cut off", "one bit"])
def test_later_damage_is_reported_when_the_record_is_read(prepared, tmp_path, damage):
    path, data_dir = prepared
    shutil.copytree(data_dir, tmp_path / "data")
    records = load_all(path, tmp_path / "data")["train"]
    (file,) = (tmp_path / "data").rglob("*-train.array*")
    if damage == "cut off":
        os.truncate(file, 3000)
    else:
        with open(file, "r+b") as handle:
            handle.write(os.urandom(file.stat().st_size - 1000))
    with pytest.raises(DataError, match=r"damaged: record \d+ of train cannot be read"):
        list(records)


def test_too_little_address_space_is_reported_at_the_start(tmp_path):
    path = write(tmp_path / "t.jsonl", [row(k) for k in range(20)])

    done = limited("-v 1000000", command(path, tmp_path / "data"))  # KiB
    assert done.returncode == 2
    assert "ulimit -v" in done.stderr and done.stderr.count("\n") == 1
