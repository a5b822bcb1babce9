"""The index of a model's own data set: made at the first search, and kept."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from clac_jax.checkpoint.layout import CHECKPOINTS
from clac_jax.datasets.prepare import NAMES
from clac_jax.errors import UserError, warn
from clac_jax.files.paths import local_path
from clac_jax.files.user_cache import cache_folder
from clac_jax.index import filters
from clac_jax.index.build import embed
from clac_jax.index.folders import SourceError
from clac_jax.index.items import Item, properties_of, schema_of
from clac_jax.index.layout import CONTENTS
from clac_jax.index.plan import EmbeddingModel, EmbedOptions, require_indexable
from clac_jax.index.sources import SourceOptions, Sources, read_row
from clac_jax.index.store import Index
from clac_jax.stores.url import is_url

_EMBEDDED = NAMES[0]


def own_index(model: EmbeddingModel, where: str | None = None) -> Index:
    """The index of all crystals of the data set that a model was trained on.

    It is in the run's folder (`RUN/index/STEP-CHECKSUM/`); for a model that is not a run on a disk,
    or in a folder that cannot be written, in the user's cache. The name has the model's checksum,
    and an index refuses any other model, so vectors of older weights are never searched.

    Args:
        model: a contrastive model, from `clac_jax.load`.
        where: a condition for a search; it is checked before an index is made.

    Raises:
        BuildError: the model cannot be indexed.
        FilterError: the condition does not fit the columns that the index has.
        SourceError: its data set is not where the run has read it.
        WorkdirError: the index cannot be written.
    """
    require_indexable(model)
    name = f"{model.step}-{model.checksum[:8]}"
    run = run_folder(model.name)
    places = [cache_folder() / "index" / name]
    if run is not None:
        places.insert(0, run / "index" / name)
    for folder in places:
        if (folder / CONTENTS).exists():
            index = Index(folder)
            if where is not None:
                filters.parse(where, index.schema)
            index.require_model(model)
            _warn_of_other_data(model, index)
            return index
    is_writable = run is not None and os.access(run, os.W_OK)
    folder = places[0] if is_writable else places[-1]
    crystals, options = _sources(model)
    if where is not None:
        _require_fitting(where, Sources(crystals, options))
    print(f"Making the index of {', '.join(crystals)} in {folder}.", file=sys.stderr, flush=True)
    # Texts take most of the time, and are only needed to search for texts.
    chosen = EmbedOptions(texts=False, on_bad="skip", sources=options)
    index_or_none = embed(model, crystals, folder, chosen)
    assert index_or_none is not None  # there are no other machines
    return index_or_none


def run_folder(name: str) -> Path | None:
    """The workdir of the run that the name of a model refers to; None if it is not a run."""
    place = name.strip()
    if "@" in place and not os.path.exists(os.path.expanduser(place)):
        place = place.rpartition("@")[0]
    if is_url(place):
        return None
    folder = local_path(place, "MODEL")
    for candidate in (folder, folder.parent, folder.parent.parent):
        if (candidate / CHECKPOINTS).is_dir() and (
            candidate == folder or folder.is_relative_to(candidate / CHECKPOINTS)
        ):
            return candidate
    return None


def _sources(model: EmbeddingModel) -> tuple[list[str], SourceOptions]:
    """The data set of a model's run, and how it is read."""
    dataset = model.config.dataset
    data_dir = Path(dataset.data_dir)
    if dataset.name == _EMBEDDED and not (data_dir / _EMBEDDED).is_dir():
        data_dir = cache_folder() / "data"  # built there from the package
    options = SourceOptions(data_dir, dataset.text_source, dataset.on_formula_mismatch)
    if dataset.name == _EMBEDDED:
        return [_EMBEDDED], options
    if not dataset.path or not (is_url(dataset.path) or os.path.exists(dataset.path)):
        raise SourceError(
            f"The data of {model.name} ({dataset.path or dataset.name}) is not here, so no index "
            "of it can be made. Make one of any crystals with `clac-jax embed`, and search that."
        )
    return [str(dataset.path)], options


def _require_fitting(where: str, sources: Sources) -> None:
    """Checks a condition against the columns that an index of the sources will have.

    Reads only as many crystals as it takes to find the properties in the condition.

    Raises:
        FilterError: it does not fit them.
    """
    columns: set[str] = set()
    items = map(read_row, sources.rows())
    while True:
        try:
            filters.parse(where, schema_of(columns))
            return
        except filters.FilterError as error:
            wrong = error
        found = (set(properties_of(item)) for item in items if isinstance(item, Item))
        new = next((names for names in found if not names <= columns), None)
        if new is None:
            raise wrong
        columns |= new


def _warn_of_other_data(model: EmbeddingModel, index: Index) -> None:
    """Warns if the run's table was changed since its index was made."""
    if model.config.dataset.name == _EMBEDDED:
        return  # part of the package
    try:
        crystals, options = _sources(model)
        fingerprint = Sources(crystals, options).fingerprint()
    except UserError:  # the data is not here any more; the index is complete without it
        return
    if fingerprint != index.info["data"][0]["fingerprint"]:
        warn(
            f"{crystals[0]} has changed since its index was made. Delete {index.path} to make it "
            "again."
        )
