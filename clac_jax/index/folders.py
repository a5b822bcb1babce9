"""The crystals and tables in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from clac_jax.crystals import cif_file
from clac_jax.datasets import cif_folder
from clac_jax.datasets.readers import SUFFIXES
from clac_jax.datasets.record import shortened
from clac_jax.errors import UserError
from clac_jax.files.paths import explain

_POSCAR = ("poscar", "contcar")


class SourceError(UserError, ValueError):
    """Crystals named on the command line do not exist or cannot be read."""


def found_in(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """Sorted relative paths: tables in a folder; crystals at any depth; tables in subfolders.

    Raises:
        SourceError: a folder cannot be read.
    """

    def raise_it(error: OSError) -> None:
        raise SourceError(f"{error.filename} cannot be read: {explain(error)}") from error

    tables: list[str] = []
    crystals: list[str] = []
    deeper: list[str] = []
    for place, folders, names in os.walk(folder, onerror=raise_it):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = os.path.join(place, name)
            if name.startswith(".") or not os.path.isfile(path):
                continue
            relative = os.path.relpath(path, folder)
            if _is_crystal(name):
                crystals.append(relative)
            elif name.lower().endswith(SUFFIXES):
                (tables if place == str(folder) else deeper).append(relative)
    return sorted(tables), sorted(crystals), sorted(deeper)


def texts_of(folder: Path, tables: list[str], crystals: list[str]) -> list[str]:
    """The table of the texts of a folder's CIF files, in a list that is empty if there is none.

    Raises:
        SourceError: it has several, or further crystals, which are in no table.
    """
    here = {name for name in crystals if os.sep not in name and cif_file.is_cif(name)}
    texts = [name for name in tables if name.lower().endswith(cif_folder.TABLES)]
    if not here or not texts:
        return []
    names = shortened(", ".join(texts), 200)
    if len(texts) > 1:
        raise SourceError(
            f"{folder} contains CIF files and {len(texts)} tables ({names}). Keep the one with "
            "the texts of the CIF files, or none, or name the tables."
        )
    if others := [name for name in crystals if name not in here]:
        raise SourceError(
            f"{folder} contains {names} for the CIF files next to it, and other crystals "
            f"({shortened(', '.join(others), 200)}). Move these, or the table, out of {folder}."
        )
    return texts


def _is_crystal(name: str) -> bool:
    lower = name.lower()
    is_poscar = lower.endswith((".vasp", ".poscar")) or lower.startswith(_POSCAR)
    return is_poscar or cif_file.is_cif(name)
