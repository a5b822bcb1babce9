"""TFDS builder for a table of crystals and texts that the user gives by path."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from clac_jax.datasets.builder import RecordBuilder
from clac_jax.datasets.record import DataError, Record
from clac_jax.datasets.rows import check_columns, read_table, record_of_row
from clac_jax.datasets.split import SPLITS, split_by_formula, split_by_row
from clac_jax.errors import UserError

# Sibling files of the public data set -> splits.
SIBLINGS = {"train": "_train", "validation": "_val", "test": "_test"}
SHOWN_BAD_ROWS = 10


class GptNarratives(RecordBuilder):
    """Crystals with texts from a table that the user gives (columns of GPT-Narratives)."""

    def __init__(
        self,
        *,
        path: str | Path,
        on_bad_row: str = "error",
        split_by: str = "row",
        **kwargs: Any,
    ):
        """Prepares to read a table.

        Args:
            path: parquet, csv or jsonl. Where its name ends in `_train`, `_val` or `_test` and the
                other two lie beside it, they are the splits.
            on_bad_row: "error" refuses the file and names the bad rows; "skip" leaves them out
                and lists them in `skipped_rows.jsonl` beside the splits.
            split_by: of a single file: "row" (seeded shuffle, the public rule) or "formula" (no
                compound on two sides).
            kwargs: see RecordBuilder.

        After `records`, `notice` says which rows were skipped.
        """
        self._path = Path(path).expanduser()
        self._on_bad_row = on_bad_row
        self._split_by = split_by
        self.notice = ""
        super().__init__(**kwargs)

    def records(self) -> dict[str, Iterable[Record]]:
        """The good rows of the file, or of the three files, by split.

        Raises:
            DataError: a file is missing or bad; every bad row is counted and the first are named.
        """
        siblings = self._siblings()
        bad: list[dict[str, Any]] = []
        if siblings:
            splits: dict[str, list[Record]] = {
                split: list(self._good_rows(path, bad)) for split, path in siblings.items()
            }
        else:
            records = list(self._good_rows(self._path, bad))
            if self._split_by == "formula":
                sides = split_by_formula([record.crystal().formula for record in records])
            else:
                sides = split_by_row(len(records))
            splits = {
                split: [r for r, side in zip(records, sides, strict=True) if side == split]
                for split in SPLITS
            }
        self._report(bad)
        for split, records in splits.items():
            if not records:
                raise DataError(
                    f"{self._path} leaves no example for the {split} split. Give more rows."
                )
        return splits

    def _siblings(self) -> dict[str, Path] | None:
        for ending in SIBLINGS.values():
            if self._path.stem.endswith(ending):
                stem = self._path.stem.removesuffix(ending)
                paths = {
                    split: self._path.with_stem(stem + other) for split, other in SIBLINGS.items()
                }
                if all(path.is_file() for path in paths.values()):
                    return paths
        return None

    def _good_rows(self, path: Path, bad: list[dict[str, Any]]) -> Iterable[Record]:
        check_columns(path)
        seen: dict[str, int] = {}
        for number, row in enumerate(read_table(path)):
            try:
                record = record_of_row(row, number)
                if record.material_id in seen:
                    raise DataError(f"its id is that of row {seen[record.material_id]} already")
            except UserError as error:
                name = next((row[k] for k in ("material_id", "id", "jid") if row.get(k)), None)
                bad.append({"file": path.name, "row": number, "id": name, "reason": str(error)})
                continue
            seen[record.material_id] = number
            yield record

    def _report(self, bad: list[dict[str, Any]]) -> None:
        if not bad:
            return
        kinds = Counter(entry["reason"].split(":")[0] for entry in bad)
        listed = "\n".join(
            f"  {entry['file']} row {entry['row']} ({entry['id']}): {entry['reason']}"
            for entry in bad[:SHOWN_BAD_ROWS]
        )
        more = f"\n  and {len(bad) - SHOWN_BAD_ROWS} more" if len(bad) > SHOWN_BAD_ROWS else ""
        text = f"{len(bad)} rows cannot be used:\n{listed}{more}"
        if self._on_bad_row == "error":
            raise DataError(
                f"{text}\nMend them, or leave them out with --config.dataset.on_bad_row=skip."
            )
        folder = Path(self.data_dir).parent
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "skipped_rows.jsonl", "w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry) + "\n" for entry in bad)
        reasons = ", ".join(f"{count} x {reason}" for reason, count in kinds.most_common(5))
        self.notice = f"{text}\nSkipped ({reasons}); all are listed in skipped_rows.jsonl"
