"""Paths from the user are validated before use."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.object_stores import moto_store

from clac_jax.cli import main as cli
from clac_jax.config.check import validate
from clac_jax.config.schema import default_config
from clac_jax.errors import EXIT_USER_ERROR
from clac_jax.files.paths import PathError, check_local, check_place, explain, local_path
from clac_jax.stores.copies import local_copy
from clac_jax.training_run import train

ROOT = Path(__file__).parents[2]
STORED = ["gs://bucket/run", "s3://bucket", "az://x", "GS://bucket", " s3://bucket"]
OTHER_URLS = [
    "abfs://x/y", "file:///tmp/x", "http://host/x", "https://host/x", "hf://owner/name",
    "hdfs:///x", "weird+scheme://x", "file:/tmp/x", "memory://",
]  # fmt: skip
COLLAPSED = ["gs:/bucket/run", "s3:/bucket", "AZ:/x/y"]
NAMES = [
    "outputs/exp", "/tmp/x", "~/runs", "a:b", "run:/x", "facebook/galactica-125m@main", "x@best",
    "C:/x", "ünï/😀", " padded", "a b", "@step=3", "minilm", "x//y", "gs:", "a/gs:/b",
]  # fmt: skip


@pytest.mark.parametrize("url", [*STORED, *OTHER_URLS, *COLLAPSED])
def test_urls_are_not_local_paths(url):
    with pytest.raises(PathError, match=r"--config is a URL .* must be a local path: it is a") as e:
        local_path(url, "--config", "it is a program")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("value", [None, 3, ["a"]])
def test_a_value_that_is_neither_text_nor_a_path_is_refused(value):
    for check in (check_local, check_place, local_path, local_copy):
        with pytest.raises(PathError, match=r"--out is .*\. Give text, or a Path"):
            check(value, "--out")


def test_a_name_in_bytes_is_that_of_a_file():
    assert local_path(b"a.cif", "--out") == local_copy(b"a.cif", "--out") == Path("a.cif")


def test_a_place_is_a_path_or_the_url_of_an_object_store():
    for url in STORED:
        assert check_place(url, "--out") == url
    for url in OTHER_URLS:
        with pytest.raises(PathError, match=r"not supported. Use a local path, or a URL .* gs://"):
            check_place(url, "--out")
    for url in COLLAPSED:  # as `Path` and some shells write them
        fixed = url.lower().replace(":/", "://")
        with pytest.raises(PathError, match=f"one slash instead of two. Write {fixed}."):
            check_place(url, "--out")


@pytest.mark.parametrize("name", NAMES)
def test_file_names_are_not_treated_as_urls(name):
    assert check_local(name, "it") == name


@pytest.mark.parametrize(
    "name, words",
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\0b", "NUL"),
        ("a\udcffb", "not UTF-8"),
        ("x" * 256, "256 bytes"),
        ("é" * 128, "256 bytes"),
        ("d/" * 2000, "4,000 bytes long"),
        ("~no-such-user/x", "home folder"),
    ],
)
def test_impossible_file_names_are_refused(name, words):
    with pytest.raises(PathError, match=words) as error:
        local_path(name, "--workdir")
    assert len(str(error.value)) < 300, "a long name is shortened in the message"


KEYS = [
    "resume_from", "dataset.path", "text_encoder.pretrained", "text_encoder.tokenizer",
    "graph_encoder.pretrained",
]  # fmt: skip
LOCAL_KEYS = {
    "compilation_cache": "each machine compiles for itself",
    "dataset.data_dir": "data sets are prepared there",
}


@pytest.mark.parametrize("key", [*KEYS, *LOCAL_KEYS])
def test_every_key_that_names_a_file_is_checked_before_anything_else(key, tmp_path):
    config = default_config()
    if key.startswith("graph_encoder"):
        config.graph_encoder.name = "orb"
    if key == "dataset.path":
        config.dataset.name = "gpt_narratives"
    config.update_from_flattened_dict({key: "http://host/x"})
    with pytest.raises(PathError, match=f'"{key}" is a URL'):
        validate(config)
    with pytest.raises(PathError):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.update_from_flattened_dict({key: "gs://bucket/x"})
    if key in KEYS:
        validate(config)
    else:
        with pytest.raises(PathError, match=f"must be a local path: {LOCAL_KEYS[key]}"):
            validate(config)


COMMANDS = [
    ("ckpt", "ls", "URL"),
    ("ckpt", "show", "URL"),
    ("ckpt", "show", "URL@best"),
    ("ckpt", "diff", "URL", "URL"),
    ("ckpt", "verify", "URL"),
    ("ckpt", "rm", "URL", "8"),
    ("ckpt", "export", "URL", "out"),
    ("ckpt", "import", "URL", "out"),
    ("evaluate", "URL@best"),
    ("compare", "URL", "URL@best"),
    ("embed", "URL", "x.cif", "--out=out"),
    ("embed", "mini", "URL/x.cif", "--out=out"),
    ("search", "URL", "words"),
    ("similarity", "URL", "words", "--crystals=x.cif"),
    ("index", "info", "URL"),
    ("index", "check", "URL"),
    ("map", "URL", "--out=out"),
    ("publish", "URL", "out"),
    ("import", "lightning", "URL", "--workdir=out"),
    ("import", "huggingface", "URL"),
    ("data", "prepare", "--name=gpt_narratives", "--path=URL", "--data_dir=data"),
]


@pytest.fixture(scope="module")
def no_bucket():
    """The URL of a bucket that does not exist."""
    with moto_store() as running, running.activated():
        yield "s3://no-such-bucket/run"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_every_command_reads_urls(arguments, no_bucket, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLAC_JAX_CACHE", str(tmp_path / "cache"))
    for url, words in (
        (no_bucket, "There is no bucket s3://no-such-bucket"),
        ("gs:/bucket/run", "Write gs://bucket/run"),
    ):
        code = cli.main([argument.replace("URL", url) for argument in arguments])
        error = capsys.readouterr().err
        assert code == EXIT_USER_ERROR
        assert words in error and error.count("error: ") == 1 and "Traceback" not in error
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--workdir="], "--workdir is empty"),
        ([b"--workdir=name-\xff"], "not UTF-8"),
        (["--workdir=x", "--config=gs://bucket/base.py"], "--config is a URL"),
        (["--workdir=x", "--config=configs/saved.py:s3:/b/c.json"], "Write s3://b/c.json"),
        (["--workdir=x", "--config=BROKEN"], "line 2: ZeroDivisionError"),
    ],
)
def test_the_program_refuses_them_before_loading_anything(flags, words, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import math\nx = 1 / 0\n")
    flags = [f.replace("BROKEN", str(broken)) if isinstance(f, str) else f for f in flags]
    if len(flags) == 1:
        flags.append(f"--config={ROOT / 'configs' / 'smoke.py'}")
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", *flags],
        cwd=tmp_path if "saved" not in str(flags) else ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == EXIT_USER_ERROR
    assert done.stderr.startswith("error: ") and words in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} <= {"broken.py", "__pycache__"}


@pytest.mark.parametrize(
    "number, words",
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EISDIR, "folder has the name"),
        (errno.ENAMETOOLONG, "shorter name"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EMFILE, "ulimit -n"),
    ],
)
def test_each_operating_system_error_says_what_to_do(number, words):
    assert words in explain(OSError(number, os.strerror(number)))
    assert words in explain(OSError(f"x.array_record: write() failed: {os.strerror(number)}"))
