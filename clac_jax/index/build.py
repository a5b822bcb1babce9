"""Making an index: crystals are embedded part by part, and a killed run resumes."""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from clac_jax.distributed.workdir import Workdir
from clac_jax.errors import WorkdirError, warn
from clac_jax.files.paths import local_path
from clac_jax.index import parts
from clac_jax.index.items import names_in, property_names
from clac_jax.index.join import bad_rows_message, join, remove_parts
from clac_jax.index.layout import BuildError, DamagedIndexError
from clac_jax.index.plan import (
    EmbeddingModel,
    EmbedOptions,
    make_plan,
    require_indexable,
    with_options_of,
)
from clac_jax.index.sources import Row, Sources
from clac_jax.index.start import begin, is_complete, require_free, unfinished_plan
from clac_jax.index.store import Index
from clac_jax.index.stored import working_folder
from clac_jax.stores.url import is_url

_LOCK_SECONDS = 60.0
_SHOWN = 20


def embed(
    model: EmbeddingModel,
    crystals: Sequence[str],
    out: str | Path,
    options: EmbedOptions | None = None,
) -> Index | None:
    """Makes an index, or resumes making it.

    Args:
        model: a contrastive model, from `clac_jax.load`.
        crystals: files, folders, tables or a data set; see `Sources`.
        out: folder of the index, or its URL in an object store.
        options: see `EmbedOptions`.

    Returns:
        The index; None if other machines have not finished their parts yet.

    Raises:
        BuildError: the model cannot be indexed, or crystals cannot be used.
        SourceError, DataError: a source cannot be read.
        IndexMismatchError: the folder has an index of a different model, data or options.
        WorkdirError: the folder cannot be written, or is in use.
    """
    options = options or EmbedOptions()
    require_indexable(model)
    if not is_url(out):
        require_free(local_path(out, "--out"), crystals)
    elif options.machine[1] > 1:
        raise BuildError(
            f"--out={out} is a URL, and machines that share the work need a common file system for "
            "the parts. Name a folder there, and copy the index when it is complete."
        )
    sources = Sources(crystals, options.sources)
    plan = make_plan(model, sources.fingerprint(), options, None)
    with working_folder(out, "--out", plan) as folder:
        return _make(_Build(model, sources, folder, options, plan))


def add(
    model: EmbeddingModel,
    index: str | Path,
    crystals: Sequence[str],
    options: EmbedOptions | None = None,
) -> Index:
    """Adds crystals to an index; until they are complete, it stays as it was.

    Args:
        model: the model of the index.
        index: its folder or URL.
        crystals: as in `embed`; their ids must not occur in the index.
        options: `on_bad` and how sources are read; the others are those of the index.

    Raises:
        BuildError, SourceError, DataError, IndexMismatchError, WorkdirError: as for `embed`.
    """
    require_indexable(model)
    with working_folder(index, "INDEX") as folder:
        return _add(model, folder, crystals, options or EmbedOptions())


def _add(
    model: EmbeddingModel, folder: Path, crystals: Sequence[str], options: EmbedOptions
) -> Index:
    info = Index(folder).info
    options = with_options_of(options, info)
    Index(folder).require_model(model)
    sources = Sources(crystals, options.sources)
    fingerprint = sources.fingerprint()
    with Workdir(folder, "INDEX"):
        opened = Index(folder)  # again, now that nothing else writes to it
        if any(fingerprint == data["fingerprint"] for data in opened.info["data"]):
            unfinished = unfinished_plan(folder)
            if unfinished is None or unfinished["fingerprint"] == fingerprint:
                remove_parts(folder)  # left by a process that was killed when all was written
            warn(f"{folder} holds these crystals already; nothing was added.")
            return opened
        plan = make_plan(model, fingerprint, options, opened.checksum)
        names = opened.info.get("property_names", {}).values()
        built = _Build(model, sources, folder, options, plan, names).run()
    assert built is not None  # no other machines
    return built


def _make(build: _Build) -> Index | None:
    """Makes an index, or the part of this machine."""
    folder, (number, count) = build.folder, build.options.machine
    if count == 1:
        with Workdir(folder, "--out"):
            return build.run()
    own = parts.folder_of(folder) / f"machine-{number}-of-{count}"
    with _patient(folder):
        is_made = begin(folder, build.plan, build.given)
        if not is_made:
            own.mkdir(exist_ok=True)  # tells a command for other crystals that this one is at work
    if is_made:
        return Index(folder)
    with Workdir(own, "--out"):
        return build.run_share()


class _Build:
    """One run of `embed` or `add` in a folder that is locked."""

    def __init__(
        self,
        model: EmbeddingModel,
        sources: Sources,
        folder: Path,
        options: EmbedOptions,
        plan: dict[str, Any],
        names: Iterable[str] = (),
    ):
        self._model = model
        self._sources = sources
        self.folder = folder
        self.options = options
        self.plan = plan
        self.given = sources.given
        self._names = set(names)  # of the properties of the index and of all parts so far

    def run(self) -> Index | None:
        """Makes all missing parts and joins them."""
        if not begin(self.folder, self.plan, self.given):
            num_parts = self._make_parts()
            self._sources.require_unchanged()
            self._join(num_parts)
        return Index(self.folder)

    def run_share(self) -> Index | None:
        """Makes the parts of this machine; joins all if those of the others exist."""
        try:
            num_parts = self._make_parts()
        except WorkdirError:
            if is_complete(self.folder, self.plan):  # by another machine
                return Index(self.folder)
            raise
        self._sources.require_unchanged()
        with _patient(self.folder):
            if not is_complete(self.folder, self.plan):
                missing = [
                    k for k in range(num_parts) if not parts.path_of(self.folder, k).exists()
                ]
                if missing:
                    print(
                        f"The parts of this machine are done; {len(missing)} of {num_parts} parts "
                        "are still missing. The last machine joins them.",
                        file=sys.stderr,
                    )
                    return None
                self._join(num_parts)
        return Index(self.folder)

    def _join(self, num_parts: int) -> None:
        names = [source.name for source in self._sources.all]
        join(self.folder, num_parts, self.plan, names, self.options.on_bad == "skip")

    def _make_parts(self) -> int:
        """Makes the missing parts of this machine; returns the number of parts of all."""
        rows, size = self._sources.rows(), self.options.part_rows
        place, count = self.options.machine
        progress = _Progress(self._sources.count())
        number = 0
        try:
            while chunk := list(itertools.islice(rows, size)):
                if number % count == place - 1:
                    is_new = not self._has_part(number)
                    if is_new:
                        self._make_part(number, chunk)
                    progress.update(len(chunk), is_new)
                else:
                    progress.update(len(chunk), False)
                number += 1
        finally:
            progress.close()
        return number

    def _make_part(self, number: int, rows: list[Row]) -> None:
        items, refused = parts.read_rows(rows)
        self._refuse(refused)
        with_texts = self.options.texts
        self._name(names_in(item for _, item in items))
        part = parts.embed_part(self._model, rows, items, refused, with_texts)
        self._refuse(part.refused)
        parts.write(parts.path_of(self.folder, number), part)

    def _refuse(self, refused: list[parts.Refused]) -> None:
        if refused and self.options.on_bad == "error":
            raise BuildError(bad_rows_message([one.row for one in refused[:_SHOWN]], len(refused)))

    def _has_part(self, number: int) -> bool:
        path = parts.path_of(self.folder, number)
        if not path.exists():
            return False
        try:
            part = parts.read(path)
        except DamagedIndexError as error:
            is_earlier = isinstance(error, parts.EarlierPartError)
            what = "from an earlier version" if is_earlier else "damaged"
            warn(f"{path} is {what} and is computed again.")
            return False
        self._refuse(part.refused)
        self._name(part.names)
        return True

    def _name(self, names: Iterable[str]) -> None:
        """Takes note of properties; two that would share a column stop it before the joining."""
        self._names.update(names)
        property_names(self._names)


@contextlib.contextmanager
def _patient(folder: Path) -> Iterator[None]:
    """Locks the folder of an index, waiting for other machines that hold it for a moment."""
    end = time.monotonic() + _LOCK_SECONDS
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(Workdir(folder, "--out"))
                break
            except WorkdirError as error:
                if not isinstance(error.__cause__, BlockingIOError) or time.monotonic() > end:
                    raise
            time.sleep(0.2)
        yield


class _Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, total: int | None, seconds_between_lines: float = 15.0):
        self._is_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total, disable=not self._is_terminal, dynamic_ncols=True, unit="crystal"
        )
        self._total = total
        self._every = seconds_between_lines
        self._started = self._printed = time.monotonic()
        self._done = self._new = 0

    def update(self, rows: int, is_new: bool) -> None:
        """Counts rows, which were embedded now or before."""
        self._done += rows
        self._new += rows if is_new else 0
        self._bar.update(rows)
        now = time.monotonic()
        if self._is_terminal or now - self._printed < self._every:
            return
        self._printed = now
        rate = self._new / (now - self._started)
        of = f" of {self._total:,}" if self._total is not None else ""
        line = f"{self._done:,}{of} crystals  {rate:.0f}/s"
        if self._total is not None and rate > 0:
            line += f"  {tqdm.format_interval((self._total - self._done) / rate)} left"
        print(line, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Closes the bar."""
        self._bar.close()
