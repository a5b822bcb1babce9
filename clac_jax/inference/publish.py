"""`clac-jax publish`: a checkpoint as a folder that is a model of its own."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from clac_jax.checkpoint.adapters import merged_model
from clac_jax.checkpoint.arrays import Arrays
from clac_jax.checkpoint.export import MODEL_FILE, export
from clac_jax.checkpoint.layout import CheckpointInfo
from clac_jax.checkpoint.locate import locate
from clac_jax.config.schema import with_defaults
from clac_jax.files.huggingface import resolve_folder
from clac_jax.files.paths import explain, local_path
from clac_jax.inference.card import LICENSES, Card
from clac_jax.inference.errors import PublishedError
from clac_jax.inference.identity import TOKENIZER_FILES
from clac_jax.inference.measures import measures_of
from clac_jax.inference.published import CARD, EVALUATION, TEXT_FOLDER, write_checksums
from clac_jax.inference.published_proof import PROOF_FILE, proof_of
from clac_jax.stores.outputs import output_folder
from clac_jax.stores.store import open_store
from clac_jax.stores.url import is_url


def publish(
    what: str,
    folder: str | Path,
    name: str | None = None,
    license_: str | None = None,
    merge: bool = False,
) -> Path | str:
    """Writes a checkpoint's model with everything that loading it needs.

    The folder has `config.json`, `model.safetensors` (all parameters and batch statistics), the
    tokenizer's files, `eval.json`, `SHA256SUMS` and a model card, `README.md`; if its run has a
    chain, also `proof.json`. It appears complete or not at all; in an object store
    `model.safetensors`, without which it is not a model, is put last.

    Args:
        what: names a checkpoint, as for `config.resume_from`.
        folder: path or URL of the folder to write, which must not exist.
        name: name of the model in its card; default: the folder's.
        license_: its licence in the card, as the Hub abbreviates it; default: that of the data if
            it is known, otherwise "unknown".
        merge: whether adapters are merged into the weights that they adapt; the model is then a
            plain one, which has no proof: no run has saved its arrays.

    Returns:
        The folder: its path, or its URL.

    Raises:
        CheckpointNotFoundError, DamagedCheckpointError: the checkpoint cannot be read.
        PretrainedError: the tokenizer's files do not exist.
        PublishedError, ExportError: the folder exists or cannot be written.
        AdapterError: the model has no adapters that could be merged.
    """
    info, arrays = locate(what), None
    if merge:
        info, arrays = merged_model(info)
    if is_url(folder):
        url = str(folder).strip().rstrip("/")
        if open_store(url).list():
            raise PublishedError(f"{url} exists. Remove it, or name another folder.")
        with output_folder(url, "FOLDER", MODEL_FILE) as made:
            export(info, made, arrays)
            _write_rest(info, made, name or made.name, license_)
        return url
    return _publish(info, local_path(folder, "FOLDER"), arrays, name, license_)


def _publish(
    info: CheckpointInfo,
    folder: Path,
    arrays: Arrays | None,
    name: str | None,
    license_: str | None,
) -> Path:
    """Writes the folder on a disk."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise PublishedError(f"{folder} exists. Remove it, or name another folder.")
        parent = folder.absolute().parent
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{folder.name[:100]}.", dir=parent, ignore_cleanup_errors=True
        ) as temporary:
            made = Path(temporary) / "model"
            export(info, made, arrays)
            _write_rest(info, made, name or folder.absolute().name, license_)
            made.rename(folder)
    except OSError as error:
        raise PublishedError(f"Cannot write {folder}: {explain(error)}") from error
    return folder


def _write_rest(info: CheckpointInfo, folder: Path, name: str, license_: str | None) -> None:
    """Writes everything but the model and its config."""
    config = with_defaults(info.config)
    if config["task"] != "property":
        _copy_text_files(config["text_encoder"], folder / TEXT_FOLDER)
    measures = measures_of(info)
    evaluation = measures.evaluation or json.dumps(measures.to_json(), indent=2) + "\n"
    (folder / EVALUATION).write_text(evaluation, encoding="utf-8")
    proof = proof_of(info)
    if proof is not None:
        content = json.dumps(proof.to_json(), indent=1) + "\n"
        (folder / PROOF_FILE).write_text(content, encoding="utf-8")
    license_ = license_ or LICENSES.get(config["dataset"]["name"], "unknown")
    card = Card(name, info, measures, license_, proof=proof.section() if proof else "")
    (folder / CARD).write_text(card.text(), encoding="utf-8")
    write_checksums(folder)


def _copy_text_files(options: dict[str, str | None], folder: Path) -> None:
    """Copies the tokenizer's files, and the config.json of a pretrained text encoder."""
    folder.mkdir()
    tokenizer = resolve_folder(str(options["tokenizer"]))
    for file in TOKENIZER_FILES:
        if (tokenizer / file).is_file():
            shutil.copyfile(tokenizer / file, folder / file)
    if options["pretrained"] is not None:
        source = resolve_folder(options["pretrained"]) / "config.json"
        shutil.copyfile(source, folder / "config.json")
