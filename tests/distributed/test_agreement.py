"""The settings that processes compare: every key that affects the numbers; the messages."""

import shutil

import jax
import numpy as np
import pytest

from clac_jax.config import schema as config_lib
from clac_jax.distributed import program_facts
from clac_jax.distributed.agreement import difference
from clac_jax.files.huggingface import resolve_folder
from configs import smoke


def facts(**changes):
    config = smoke.get_config()
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return program_facts.of_program(config)


@pytest.mark.parametrize(
    "key, value",
    [
        ("learning_rate", 1e-3),
        ("seed", 43),
        ("batch_size", 8),
        ("projection_dim", 32),
        ("max_epochs", 3),
        ("dataset.max_examples", 16),
        ("dataset.name", "gpt_narratives"),
        ("augment.mask_prob", 0.5),
        ("text_encoder.max_length", 64),
        ("frozen", ("text_encoder/.*",)),
        ("restore.rules", (("a/(.*)", r"b/\1"),)),
        ("text_encoder.dropout", 0.1),
    ],
)
def test_another_value_is_named_with_both(key, value):
    message = difference({0: facts(), 1: facts(), 2: facts(**{key: value})})
    before = dict(config_lib.flatten(config_lib.to_plain(smoke.get_config())))[key]
    after = list(map(list, value)) if key == "restore.rules" else value
    after = list(after) if isinstance(after, tuple) else after
    assert message.startswith(
        f"Config key {key} is {after!r} in process 2 and {before!r} in process 0."
    )
    assert "Start every process with the same command" in message


def test_every_key_is_compared_except_where_a_host_keeps_its_files_and_how_it_reads_them():
    keys = set(config_lib.flatten(config_lib.to_plain(smoke.get_config())))
    compared = {name.removeprefix("config key ") for name in facts() if "config key" in name}
    assert keys - compared == {
        "bucket.lease_seconds",
        "bucket.max_mb_per_second",
        "bucket.patience_minutes",
        "bucket.scratch",
        "checkpoint.store",
        "compilation_cache",
        "dataset.data_dir",
        "dataset.path",
        "distributed.coordinator_address",
        "distributed.process_id",
        "distributed.local_devices",
        "distributed.connect_seconds",
        "distributed.failure_seconds",
        "input.num_threads",
        "input.prefetch",
        "logging.tensorboard",
        "logging.wandb",
        "logging.wandb_project",
        "text_encoder.pretrained",
        "text_encoder.tokenizer",
    }


def test_settings_that_may_differ_between_hosts_do_not_count(tmp_path):
    copied = tmp_path / "elsewhere"
    shutil.copytree(
        resolve_folder("minilm"), copied, ignore=shutil.ignore_patterns("*.safetensors")
    )
    changes = {
        "distributed__process_id": 1,
        "dataset__data_dir": "/elsewhere",
        "compilation_cache": "",
        "logging__wandb": True,
        "input__num_threads": 7,
        "text_encoder__tokenizer": str(copied),
    }
    assert difference({0: facts(), 1: facts(**changes)}) == ""
    tokenizer = copied / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("lattice", "lettuce"))
    message = difference({0: facts(), 1: facts(**changes)})
    assert message.startswith("The content of config key text_encoder.tokenizer is of digest")


def test_versions_settings_and_flags_are_compared(monkeypatch):
    before = facts()
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=true --xla_dump_to=/tmp/here")
    assert difference({0: before, 1: facts()}).startswith("XLA_FLAGS is --xla_cpu_enable_fast")
    monkeypatch.undo()
    with jax.enable_x64(True):
        assert difference({0: before, 1: facts()}).startswith("The JAX setting jax_enable_x64 is T")
    monkeypatch.setattr(
        "clac_jax.distributed.program_facts.package_versions", lambda: {"jax": "0.0.1"}
    )
    assert difference({0: before, 1: facts()}).startswith("The version of clac-jax is absent")


def test_arrays_of_different_shapes_are_named():
    def of(width):
        return program_facts.of_arrays({"params/w": jax.ShapeDtypeStruct((2, width), np.float32)})

    assert difference({0: of(3), 1: of(3)}) == ""
    message = difference({0: of(3), 1: of(4)})
    assert message.startswith(
        "The array params/w is float32[2, 4] in process 1 and float32[2, 3] in"
    )


def test_more_differences_are_counted_and_the_first_few_named():
    some = {f"key {number}": "1" for number in range(9)}
    message = difference({0: some, 1: {name: "2" for name in some}})
    assert message.startswith(
        "Key 0 is 2 in process 1 and 1 in process 0. 8 more differ: key 1, key 2"
    )
    assert "key 5, ... Start" in message
