"""Every format that the project reads: sound examples of it, ways to spoil them, and the reader."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from etils import epath
from safetensors.numpy import save_file

from clac_jax import datasets, run_log
from clac_jax.batch import BatchShape  # noqa: F401  (imported once, here, for all workers)
from clac_jax.checkpoint import export, files, layout, locate, manager
from clac_jax.config import default_config
from clac_jax.crystal import Crystal
from clac_jax.datasets import __main__ as datasets_main
from clac_jax.datasets import rows
from clac_jax.errors import EXIT_USER_ERROR, UserError
from clac_jax.interop import lightning_file
from clac_jax.models import pretrained
from clac_jax.progress import RunProgress
from clac_jax.safetensors_files import read_safetensors
from clac_jax.text import Tokenizer
from clac_jax.torch_files import read_torch_file
from tools.fuzzing import mutations

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "tests" / "data" / "lightning"
SPLITS = ("train", "validation", "test")


class RefusedError(UserError):
    """A command ended with the exit code of a user's error, and this on its error output."""


@dataclass(frozen=True)
class Format:
    """One of them.

    Attributes:
        name: of the format.
        make: writes sound examples into a folder, each a folder of its own.
        spoil: changes the files of a copy of one of them; whether their checksums still have to
            notice any change (bytes were changed behind them), or fit (all was written anew).
        read: the content of such a folder, by the project's own reader.
        memory: bytes of address space that a reader may take beyond what is taken at the start.
    """

    name: str
    make: Callable[[Path], None]
    spoil: Callable[[Path, random.Random], bool]
    read: Callable[[Path], Any]
    memory: int = 1 << 30


def spoil_one(
    name: str,
    *ways: Callable[[bytes, random.Random], bytes],
    checked: bool = False,
    as_file: bool = True,
) -> Any:
    """Spoils the file of that name (a pattern) as bytes, in some own ways, or (`as_file`) as a file."""

    def spoil(folder: Path, rng: random.Random) -> bool:
        path = rng.choice(sorted(path for path in folder.glob(name) if path.is_file()))
        if as_file and rng.random() < 0.05:
            mutations.spoil_file(path, rng)
            return checked
        if ways and rng.random() < 0.6:
            path.write_bytes(rng.choice(ways)(path.read_bytes(), rng))
            return False
        path.write_bytes(mutations.spoil_bytes(path.read_bytes(), (path.read_bytes(),), rng))
        return checked

    return spoil


def as_json(data: bytes, rng: random.Random) -> bytes:
    """Another JSON value of the kind."""
    return mutations.json_text(mutations.spoil_json(json.loads(data), rng), rng)


def as_json_lines(data: bytes, rng: random.Random) -> bytes:
    """One line with another JSON value, repeated, or in another place."""
    lines = data.splitlines()
    place = rng.randrange(len(lines))
    fault = rng.random()
    if fault < 0.8:
        lines[place] = as_json(lines[place], rng)
    elif fault < 0.9:
        lines.insert(rng.randrange(len(lines)), lines[place])
    else:
        rng.shuffle(lines)
    return b"\n".join(lines) + b"\n"


# Torch files.


def _torch_writer() -> Any:
    sys.path.insert(0, str(ROOT / "tests"))
    import torch_writer  # the tests' own: PyTorch is not needed

    return torch_writer


def _torch_content(k: int) -> Any:
    base = np.arange(60, dtype=np.float32).reshape(6, 10)
    contents = [
        {"weight": base, "again": base, "nested": [{"epoch": 3, "name": "é", "x": (1.5, None)}]},
        {
            "flags": np.array([True, False]),
            "ids": np.arange(5),
            "scalar": np.full((), 2.0),
        },
        {
            "state": {0: {"step": np.ones((), np.float32), "exp_avg": base * 2}},
            "half": base.astype("f2"),
        },
    ]
    return contents[k]


def _make_torch(old: bool) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for k in range(3):
            (folder / str(k)).mkdir()
            _torch_writer().save(_torch_content(k), folder / str(k) / "file.pt", old)

    return make


def _torch_pickle(data: bytes, rng: random.Random) -> bytes:
    """A sound archive around other instructions."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    return mutations.write_zip(
        [
            (name, mutations.spoil_pickle(content, rng) if name.endswith(".pkl") else content)
            for name, content in members
        ]
    )


def _read_torch(folder: Path) -> Any:
    return read_torch_file(folder / "file.pt")


def _make_lightning(folder: Path) -> None:
    for k, name in enumerate(("painn_bert", "cgcnn_opt")):
        saved = read_torch_file(MODELS / name / "last.ckpt")
        saved["state_dict"] = {"a.weight": np.ones((2, 3), np.float32)}
        for optimizer in saved["optimizer_states"]:
            optimizer["state"] = {0: optimizer["state"][0]}
        (folder / str(k)).mkdir()
        (folder / str(k) / "saved.pickle").write_bytes(pickle.dumps(saved))  # ours, read below


def _spoil_lightning(folder: Path, rng: random.Random) -> bool:
    saved = mutations.spoil_json(pickle.loads((folder / "saved.pickle").read_bytes()), rng)
    try:
        _torch_writer().save(saved, folder / "last.ckpt")
    except (ValueError, OverflowError, RecursionError):
        _torch_writer().save({}, folder / "last.ckpt")
    return False


def _read_lightning(folder: Path) -> Any:
    if not (folder / "last.ckpt").exists():
        return None
    return lightning_file.read_lightning_file(folder / "last.ckpt").missing


# Models of other programs.


def _copy_models(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for model in ("hf_bert", "hf_opt"):
            (folder / model).mkdir()
            for name in names:
                if (MODELS / model / name).exists():
                    shutil.copy(MODELS / model / name, folder / model / name)

    return make


def _make_safetensors(folder: Path) -> None:
    for k in range(2):
        (folder / str(k)).mkdir()
        tensors = {"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.ones(k, np.int64)}
        save_file(tensors, folder / str(k) / "model.safetensors", metadata={"format": "pt"})


def _safetensors_header(data: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    header = as_json(data[8 : 8 + length], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + length :]


def _make_index(folder: Path) -> None:
    _make_safetensors(folder)
    for model in folder.iterdir():
        (model / "model.safetensors").rename(model / "part.safetensors")
        index = {"metadata": {}, "weight_map": {"a": "part.safetensors", "b": "part.safetensors"}}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))


def _make_word_pieces(folder: Path) -> None:
    (folder / "0").mkdir()
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b", "ti", "##o", "2"]
    (folder / "0" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    (folder / "0" / "tokenizer_config.json").write_text('{"do_lower_case": true}')


def _read_tokenizer(folder: Path) -> Any:
    tokenizer = Tokenizer.from_folder(folder)
    ids = tokenizer.encode("TiO2 has 2 atoms; a \U0001f48e.", 16)
    assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size, "an id beyond the vocabulary"
    return ids


# Tables.


def _rows() -> list[dict[str, Any]]:
    crystals = [
        Crystal(
            np.eye(3) * (3.5 + 0.1 * k), np.array([55, 17]), np.array([[0, 0, 0], [1.7, 1.7, 1.7]])
        )
        for k in range(20)
    ]
    rows = []
    for k, crystal in enumerate(crystals):
        fractional = np.linalg.solve(crystal.lattice.T, crystal.positions.T).T
        rows.append(
            {
                "material_id": f"mp-{k}",
                "formula": "CsCl",
                "atoms": {
                    "lattice_mat": crystal.lattice.tolist(),
                    "coords": fractional.tolist(),
                    "elements": ["Cs", "Cl"],
                    "cartesian": False,
                },
                "gpt_text": f"CsCl is cubic. Its cell is {3.5 + 0.1 * k:.1f} Å wide.",
                "gpt_explanation": "",
                "band gap": 0.5 * k,
            }
        )
    return rows


_CIF = """data_x
_cell_length_a 4.0
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P m -3 m'
_symmetry_Int_Tables_number 221
_chemical_formula_sum 'Cs Cl'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 1
"""
_CIF_LOOP = """loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-x, -y, -z'
'y, z, x'
"""


def _make_rows(folder: Path) -> None:
    for k, row in enumerate(_rows()[:3]):
        (folder / str(k)).mkdir()
        if k == 1:
            row = {key: value for key, value in row.items() if key != "atoms"} | {"cif": _CIF}
        if k == 2:
            row = row | {"atoms": json.dumps(row["atoms"]), "text": [["One.", "Two."]]}
        (folder / str(k) / "row.json").write_text(json.dumps(row))


def _read_row(folder: Path) -> Any:
    try:
        row = json.loads((folder / "row.json").read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise RefusedError("the table's reader refuses it first") from error
    return _numbers_of(rows.record_of_row(row))


def _numbers_of(record: Any) -> Any:
    example = record.to_example()
    assert np.all(np.isfinite(example["lattice"])), "a cell that is not finite"
    assert np.all(np.isfinite(example["positions"])), "positions that are not finite"
    assert np.all((example["atomic_numbers"] > 0) & (example["atomic_numbers"] < 119)), "no element"
    str(example["material_id"]).encode(), example["rest"].encode()
    return example


def _make_cif(folder: Path) -> None:
    for k, text in enumerate(
        (_CIF, _CIF + _CIF_LOOP, _CIF.replace("_symmetry_Int", "_space_group.IT"))
    ):
        (folder / str(k)).mkdir()
        (folder / str(k) / "a.cif").write_text(text)


def _read_cif(folder: Path) -> Any:
    try:
        text = (folder / "a.cif").read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RefusedError("the folder's reader refuses it first") from error
    return _numbers_of(rows.record_of_row({"id": "x", "cif": text, "gpt_text": "A text."}))


def _make_cif_folder(folder: Path) -> None:
    (folder / "0" / "crystals").mkdir(parents=True)
    lines = ["id,gpt_text"]
    for k in range(20):
        text = _CIF.replace("4.0", f"4.{k:02}") + (_CIF_LOOP if k % 2 else "")
        (folder / "0" / "crystals" / f"{k}.cif").write_text(text)
        lines.append(f"{k},It is cubic.")
    (folder / "0" / "crystals" / "texts.csv").write_text("\n".join(lines) + "\n")


def _make_table(suffix: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        (folder / "0").mkdir()
        path, table = folder / "0" / f"table{suffix}", _rows()
        if suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in table))
        elif suffix == ".json":
            path.write_text(json.dumps(table))
        elif suffix == ".parquet":
            pa.parquet.write_table(pa.Table.from_pylist(table), path)
        else:
            flat = [row | {"atoms": json.dumps(row["atoms"])} for row in table]
            pa.csv.write_csv(pa.Table.from_pylist(flat), path)

    return make


def _other_parquet(data: bytes, rng: random.Random) -> bytes:
    """A sound file of other values, types or names of columns."""
    table = pa.parquet.read_table(io.BytesIO(data))
    buffer = io.BytesIO()
    fault = rng.random()
    try:
        if fault < 0.5:
            table = pa.Table.from_pylist(mutations.spoil_json(table.to_pylist(), rng))
        elif fault < 0.7:  # a name twice, or an odd one
            names = table.column_names
            names[rng.randrange(len(names))] = rng.choice([*names, "a\0b", "", "²", "x" * 5000])
            table = table.rename_columns(names)
        else:
            odd = rng.choice(
                (
                    pa.array([1] * len(table), pa.timestamp("ns")),
                    pa.array([b"\xff\xfe"] * len(table), pa.binary()),
                    pa.array([b"\xff\xfe"] * len(table), pa.binary()).view(pa.string()),
                    pa.array([None] * len(table)),
                    pa.array([(1 << 64) - 1] * len(table), pa.uint64()),
                    pa.array(["a"] * len(table)).dictionary_encode(),
                    pa.array([[[[1]]]] * len(table)),
                    pa.array([float("nan")] * len(table)),
                )
            )
            place = rng.randrange(len(table.column_names))
            if rng.random() < 0.5:
                table = table.set_column(place, table.column_names[place], odd)
            else:
                table = table.append_column("odd", odd)
        pa.parquet.write_table(table, buffer)
    except (pa.ArrowException, OverflowError, TypeError, ValueError, AttributeError):
        return data  # no such table can be written
    return buffer.getvalue()


def _build(folder: Path, name: str, *flags: str) -> Any:
    """`python -m clac_jax.datasets`, in this process."""
    data = folder / "data"
    arguments = [
        "datasets",
        "--name=gpt_narratives",
        f"--data_dir={data}",
        f"--path={folder / name}",
    ]
    told = io.StringIO()
    sys.argv = [*arguments, *flags]
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            datasets_main.main()
    except SystemExit as end:
        if end.code != EXIT_USER_ERROR:
            raise
        left = list(data.glob("*/.building*"))
        assert not left, f"an unfinished build is left: {left}"
        raise RefusedError(told.getvalue().removeprefix("error: ").strip()) from end
    return None


def _make_prepared(folder: Path) -> None:
    _make_table(".jsonl")(folder)
    _build(folder / "0", "table.jsonl")


def _read_prepared(folder: Path) -> Any:
    examples = []
    for split in SPLITS:
        source = datasets.load(
            "gpt_narratives", folder / "data", split, path=folder / "table.jsonl"
        )
        examples += [source[k].to_example() for k in range(len(source))]
    return examples


# What a run writes.


def _make_checkpoint(folder: Path) -> None:
    config = default_config()
    arrays = {"params/a": np.arange(6, dtype=np.float32), "step": np.int32(8)}
    import jax

    shapes = {name: jax.ShapeDtypeStruct(np.shape(x), x.dtype) for name, x in arrays.items()}
    checkpoints = manager.Checkpoints(folder / "0", config, shapes, 32)
    progress = RunProgress(step=8, epoch=1, examples_seen=32)
    checkpoints.save(arrays, progress, {"val_loss": 1.5})
    checkpoints.close()


def _spoil_checkpoint(folder: Path, rng: random.Random) -> bool:
    checkpoint = folder / "checkpoints" / "8"
    fault = rng.random()
    if fault < 0.5:
        return spoil_one("*/metadata", checked=True)(checkpoint, rng)
    if fault < 0.7:
        return spoil_one("files.json", as_json, checked=True)(checkpoint, rng)
    if fault < 0.8:
        odd = (
            folder / "checkpoints" / rng.choice(("²", "99", "-1", "8.5", "1" * 5000, "a\nb", "007"))
        )
        try:
            rng.choice((Path.mkdir, Path.touch, lambda path: path.symlink_to(path.name)))(odd)
        except OSError:
            pass  # no such name can be
        return False
    path = checkpoint / "run" / "metadata"  # with checksums that fit
    path.write_bytes(as_json(path.read_bytes(), rng))
    files.write_manifest(epath.Path(checkpoint))
    return False


def _read_checkpoint(folder: Path) -> Any:
    directory = epath.Path(folder / "checkpoints")
    whole, _ = layout.read_all(directory)
    found = [locate.locate(f"{folder}{which}").to_json() for which in ("@last", "@step=8")]
    return found, sorted(whole)


def _make_metrics(folder: Path) -> None:
    (folder / "0").mkdir()
    table = [
        {
            "split": split,
            "step": 8 * k,
            "epoch": k,
            "examples_seen": 32 * k,
            "loss": 0.5,
            "val_loss": 1.5,
        }
        for k in range(4)
        for split in ("train", "val")
    ]
    text = "".join(json.dumps(row) + "\n" for row in table)
    (folder / "0" / "metrics.jsonl").write_text(text)


def _read_metrics(folder: Path) -> Any:
    path = folder / "metrics.jsonl"
    table = run_log.read_rows(path)
    run_log.MetricsFile(path, step=16).close()
    return table


def _make_export(folder: Path) -> None:
    _make_checkpoint(folder)
    export.export(locate.locate(str(folder / "0")), folder / "1")
    shutil.rmtree(folder / "0")


def _spoil_export(folder: Path, rng: random.Random) -> bool:
    if rng.random() < 0.5:
        return spoil_one("config.json", as_json)(folder, rng)
    return spoil_one("model.safetensors", _safetensors_header)(folder, rng)


def _read_export(folder: Path) -> Any:
    return export.import_model(folder, folder / "imported") is None


def _tokenizer_json(data: bytes, rng: random.Random) -> bytes:
    return mutations.json_text(mutations.spoil_json(json.loads(data), rng), rng)


FORMATS = {
    format.name: format
    for format in (
        Format(
            "torch-zip", _make_torch(False),
            spoil_one("file.pt", mutations.spoil_zip, _torch_pickle, _torch_pickle, checked=True),
            _read_torch,
        ),
        Format("torch-legacy", _make_torch(True), spoil_one("file.pt", mutations.spoil_pickle), _read_torch),
        Format("lightning", _make_lightning, _spoil_lightning, _read_lightning),
        Format(
            "safetensors", _make_safetensors, spoil_one("*.safetensors", _safetensors_header),
            lambda folder: read_safetensors(folder / "model.safetensors"),
        ),
        Format(
            "index", _make_index, spoil_one("*.index.json", as_json, as_json),
            lambda folder: pretrained.load_tensors(folder)[1],
        ),
        Format(
            "config.json", _copy_models("config.json"), spoil_one("config.json", as_json, as_json),
            lambda folder: repr(pretrained.load_huggingface_config(folder)),
        ),
        Format(
            "tokenizer.json", _copy_models("tokenizer.json", "tokenizer_config.json"),
            spoil_one("tokenizer*.json", _tokenizer_json, _tokenizer_json), _read_tokenizer,
        ),
        Format(
            "vocab.txt", _make_word_pieces,
            lambda folder, rng: spoil_one(
                *(("vocab.txt",) if rng.random() < 0.6 else ("tokenizer_config.json", as_json))
            )(folder, rng),
            _read_tokenizer,
        ),
        Format("row", _make_rows, spoil_one("row.json", as_json, as_json, as_file=False), _read_row),
        Format("cif", _make_cif, spoil_one("a.cif", as_file=False), _read_cif),
        Format(
            "cif-folder",
            _make_cif_folder,
            spoil_one("crystals/*"),
            lambda folder: _build(folder, "crystals", "--on_bad_row=skip"),
            4 << 30,
        ),
        Format(
            "jsonl", _make_table(".jsonl"), spoil_one("table.jsonl", as_json_lines),
            lambda folder: _build(folder, "table.jsonl", "--on_bad_row=skip"), 4 << 30,
        ),
        Format(
            "json", _make_table(".json"), spoil_one("table.json", as_json),
            lambda folder: _build(folder, "table.json", "--on_bad_row=skip"), 4 << 30,
        ),
        Format(
            "csv", _make_table(".csv"), spoil_one("table.csv"),
            lambda folder: _build(folder, "table.csv", "--on_bad_row=skip"), 4 << 30,
        ),
        Format(
            "parquet", _make_table(".parquet"), spoil_one("table.parquet", _other_parquet),
            lambda folder: _build(folder, "table.parquet", "--on_bad_row=skip"), 4 << 30,
        ),
        Format(
            "prepared", _make_prepared, spoil_one("data/*/*/**/*", checked=True), _read_prepared, 4 << 30
        ),
        Format("checkpoint", _make_checkpoint, _spoil_checkpoint, _read_checkpoint, 2 << 30),
        Format("metrics.jsonl", _make_metrics, spoil_one("*.jsonl", as_json_lines), _read_metrics),
        Format("export", _make_export, _spoil_export, _read_export, 4 << 30),
    )
}  # fmt: skip
