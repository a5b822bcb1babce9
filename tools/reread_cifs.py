"""Reads collections of CIF files and counts accepted and rejected ones, with the reasons.

    python tools/reread_cifs.py FOLDER... [--acwf 200] [--against pymatgen] [--json counts.json]

A source is a folder (searched recursively for .cif files), a file, or an AMCSD database
(`amcsd_cif1.db` of the PyPI package larixite). `--acwf N` also writes N of the bundled crystals in
the format of acwf-verification-scripts (the space-group number in quotes, the operations listed)
and compares them after reading. `--against pymatgen` compares every crystal with that read by
pymatgen. The exit status is 1 if a text raised anything but a CrystalError, if an accepted crystal
contradicts the formula sum of its file, or if an acwf file was read as a different crystal.
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import sqlite3
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from vesin import NeighborList

from clac_jax.crystals import cif, elements
from clac_jax.crystals.crystal import Crystal, CrystalError

COMPARED_DISTANCES = 3.0  # angstrom
DISTANCE_TOLERANCE = 0.02  # angstrom
VOLUME_TOLERANCE = 1e-3
FORMULA_TOLERANCE = 0.02
EXAMPLES = 5


@dataclass
class Counts:
    """The outcomes for one source; `examples` has the names of a few texts per outcome."""

    texts: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, kind: str, name: str) -> None:
        """Counts a text."""
        self.kinds[kind] += 1
        if len(self.examples[kind]) < EXAMPLES:
            self.examples[kind].append(name)

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON-serializable values."""
        return {
            "texts": self.texts,
            "ms_per_text": round(1000 * self.seconds / max(1, self.texts), 3),
            "kinds": dict(self.kinds.most_common()),
            "examples": dict(self.examples),
        }


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("sources", nargs="*", type=Path, help="folders, .cif files, .db files")
    parser.add_argument("--acwf", type=int, default=0, metavar="N", help="bundled crystals")
    parser.add_argument("--against", choices=("pymatgen",))
    parser.add_argument("--json", type=Path, help="output file for the counts")
    options = parser.parse_args()
    results: dict[str, Counts] = {}
    for source in options.sources:
        results[str(source)] = count(texts_of(source), bool(options.against))
    if options.acwf:
        results["acwf format"] = count_acwf(options.acwf, bool(options.against))
    for source, counts in results.items():
        print_table(source, counts)
    if options.json:
        content = {source: counts.as_dict() for source, counts in results.items()}
        options.json.write_text(json.dumps(content, indent=1), encoding="utf-8")
    faults = ("TRACEBACK", "ACCEPTED against its formula", "DIFFERENT CRYSTAL")
    sys.exit(any(kind.startswith(faults) for c in results.values() for kind in c.kinds))


def texts_of(source: Path) -> Iterator[tuple[str, str]]:
    """Yields (name, text) for each CIF of a source."""
    if source.suffix == ".db":
        yield from _amcsd(source)
        return
    files = [source] if source.is_file() else sorted(source.rglob("*"))
    for file in files:
        if file.suffix.lower() == ".cif" and not file.name.startswith("._"):
            yield str(file), file.read_text(encoding="utf-8", errors="replace")


def count(texts: Iterator[tuple[str, str]], compare: bool) -> Counts:
    """Reads every text and counts the outcomes."""
    counts = Counts()
    for name, text in texts:
        counts.texts += 1
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                read = cif.read(text)
            problem = ""
        except CrystalError as error:
            read, problem = None, f"refused: {_kind(str(error))}"
        except Exception as error:
            traceback.print_exc()
            read, problem = None, f"TRACEBACK: {type(error).__name__}"
        counts.seconds += time.perf_counter() - start
        if read is not None and read.mismatch:
            problem = f"formula: {_kind_of_mismatch(read.mismatch)}"
        elif read is not None and _contradicts(text, read.crystal):
            problem = "ACCEPTED against its formula"
        counts.add(problem or "read", name)
        if compare and read is not None:
            counts.add(f"pymatgen: {_against_pymatgen(text, read.crystal)}", name)
    return counts


def count_acwf(number: int, compare: bool) -> Counts:
    """Writes bundled crystals in the format of acwf, reads them and compares."""
    import pyarrow.parquet

    from clac_jax.datasets.materials_project_mini.builder import PARQUET  # needs pyarrow

    columns = ["material_id", "lattice", "atomic_numbers", "frac_coords"]
    rows = pyarrow.parquet.read_table(PARQUET, columns=columns).to_pylist()
    chosen = rows[:: max(1, len(rows) // number)][:number]
    crystals = {
        row["material_id"]: Crystal.from_arrays(
            row["lattice"], row["atomic_numbers"], row["frac_coords"]
        )
        for row in chosen
    }
    texts = {name: acwf_text(crystal) for name, crystal in crystals.items()}
    counts = count(iter(texts.items()), compare)
    for name, text in texts.items():
        try:
            difference = _difference(cif.read(text).crystal, crystals[name])
        except CrystalError:
            difference = "refused"
        if difference:
            counts.add(f"DIFFERENT CRYSTAL: {difference}", name)
    return counts


def acwf_text(crystal: Crystal) -> str:
    """A CIF with the space-group number in quotes, the operations and one site per orbit."""
    import spglib

    cell = (crystal.lattice, crystal.fractional, crystal.atomic_numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spglib.get_symmetry_dataset(cell, 1e-4)
    lengths = np.linalg.norm(crystal.lattice, axis=1)
    unit = crystal.lattice / lengths[:, None]
    angles = [np.degrees(np.arccos(unit[i - 2] @ unit[i - 1])) for i in range(3)]
    lines = ["data_image0"]
    lines += [
        f"_cell_length_{edge} {value:.12g}" for edge, value in zip("abc", lengths, strict=True)
    ]
    names = ("alpha", "beta", "gamma")
    lines += [f"_cell_angle_{name} {value:.12g}" for name, value in zip(names, angles, strict=True)]
    lines += [
        "_symmetry_space_group_name_H-M 'P 1'",
        f"_symmetry_Int_Tables_number '{found.number}'",
    ]
    lines += ["loop_", "_symmetry_equiv_pos_as_xyz"]
    pairs = zip(found.rotations, found.translations, strict=True)
    lines += [f"'{_triplet(rotation, shift)}'" for rotation, shift in pairs]
    lines += ["loop_", "_atom_site_label", "_atom_site_type_symbol"]
    lines += [f"_atom_site_fract_{axis}" for axis in "xyz"] + ["_atom_site_occupancy"]
    for atom in np.unique(found.equivalent_atoms):
        symbol = elements.symbol(int(crystal.atomic_numbers[atom]))
        place = " ".join(f"{value:.10f}" for value in crystal.fractional[atom])
        lines.append(f"{symbol}{atom} {symbol} {place} 1.0")
    return "\n".join(lines) + "\n"


def print_table(source: str, counts: Counts) -> None:
    """Prints the counts of one source, with a few names."""
    values = counts.as_dict()
    print(f"\n{source}: {counts.texts:,} texts, {values['ms_per_text']} ms each")
    for kind, number in counts.kinds.most_common():
        names = ", ".join(Path(name).name for name in counts.examples[kind][:3])
        print(f"  {number:>6,}  {kind}  [{names}]")


def _triplet(rotation: np.ndarray, shift: np.ndarray) -> str:
    parts = []
    for row, step in zip(rotation, shift, strict=True):
        letters = "".join(
            f"{'-' if value < 0 else '+'}{letter}"
            for value, letter in zip(row, "xyz", strict=True)
            for _ in range(abs(int(value)))
        )
        parts.append(f"{letters}{step % 1.0:+.10f}")
    return ", ".join(parts)


def _kind(message: str) -> str:
    """A message without the parts that are specific to the file."""
    first = re.split(r"(?<=[a-z')])[.:] ", message.replace(" of the CIF", ""))[0]
    first = re.sub(r"Site \S+", "Site", first)
    return re.sub(r"-?\d[\d.e+-]*", "N", re.sub(r"'[^']*'|\"[^\"]*\"", "X", first))[:100]


def _kind_of_mismatch(message: str) -> str:
    match = re.search(r"\(([^)]*)\)\.?$", message)
    if match is None:
        return "different numbers of the same elements" if "formula sum" in message else message
    return (
        "H without a site" if match[1] == "H without a site" else "different elements: " + match[1]
    )


def _contradicts(text: str, crystal: Crystal) -> bool:
    """Whether a simple parse of the formula sum gives a different compound."""
    match = re.search(r"^_chemical_formula_sum\s+(?:'([^'\n]*)'|(\S+))\s*$", text, re.MULTILINE)
    formula = "" if match is None else (match[1] or match[2])
    if not re.fullmatch(r"([A-Z][a-z]?\d*\.?\d*\s*)+", formula):
        return False
    wanted: Counter[str] = Counter()
    for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*\.?\d*)", formula):
        wanted["H" if symbol in ("D", "T") else symbol] += float(number or 1)
    found = Counter(elements.symbol(int(z)) for z in crystal.atomic_numbers)
    ratios = [found[symbol] / number for symbol, number in wanted.items() if number]
    return set(found) != {symbol for symbol, number in wanted.items() if number} or (
        max(ratios) > (1 + FORMULA_TOLERANCE) * min(ratios)
    )


def _against_pymatgen(text: str, crystal: Crystal) -> str:
    from pymatgen.io.cif import CifParser

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            parser = CifParser.from_str(text)
            structure = parser.parse_structures(primitive=False, check_occu=False)[0]
            other = Crystal.from_arrays(
                structure.lattice.matrix.tolist(),
                [site.specie.Z for site in structure],
                structure.frac_coords.tolist(),
            )
        except CrystalError as error:
            return f"its crystal is invalid: {_kind(str(error))}"
        except Exception as error:
            return f"cannot read it ({type(error).__name__})"
    return _difference(crystal, other) or "equal"


def _difference(crystal: Crystal, other: Crystal) -> str:
    if crystal.formula != other.formula or crystal.num_atoms != other.num_atoms:
        return "different composition" if crystal.formula != other.formula else "different number"
    if abs(crystal.volume / other.volume - 1) > VOLUME_TOLERANCE:
        return "different volume"
    first, second = _distances(crystal), _distances(other)
    short = min(len(first), len(second))
    # Pairs at the cutoff may be counted for only one of the crystals.
    if short and np.abs(first[:short] - second[:short]).max() > DISTANCE_TOLERANCE:
        return "different distances"
    rest = np.concatenate([first[short:], second[short:]])
    is_short = len(rest) and rest.min() < COMPARED_DISTANCES - DISTANCE_TOLERANCE
    return "different distances" if is_short else ""


def _distances(crystal: Crystal) -> np.ndarray:
    (distances,) = NeighborList(cutoff=COMPARED_DISTANCES, full_list=False).compute(
        crystal.positions, crystal.lattice, periodic=True, quantities="d"
    )
    return np.sort(distances)


def _amcsd(path: Path) -> Iterator[tuple[str, str]]:
    """The CIF of every entry of the database, as written by larixite."""
    with sqlite3.connect(path) as database:
        database.row_factory = sqlite3.Row
        groups = {row["id"]: row for row in database.execute("select * from spacegroups")}
        for row in database.execute("select * from cif order by id"):
            yield f"amcsd {row['id']}", _amcsd_text(row, groups[row["spacegroup_id"]])


def _amcsd_text(row: sqlite3.Row, group: sqlite3.Row) -> str:
    lines = ["data_global", f"_chemical_formula_sum '{row['formula']}'"]
    lines += [f"_cell_length_{name} {_amcsd_number(row[name])}" for name in "abc"]
    angles = ("alpha", "beta", "gamma")
    lines += [f"_cell_angle_{name} {_amcsd_number(row[name])}" for name in angles]
    symbol = group["hm_notation"].split("%var")[0]
    lines += [f"_symmetry_space_group_name_H-M '{symbol}'", "loop_"]
    lines += ["_space_group_symop_operation_xyz"]
    lines += [f"  '{triplet}'" for triplet in json.loads(group["symmetry_xyz"])]
    if row["atoms_sites"] not in (None, "0", "<missing>"):
        labels = json.loads(row["atoms_sites"])
        columns = [labels, *(_amcsd_column(row[f"atoms_{axis}"], len(labels)) for axis in "xyz")]
        lines += ["loop_", "_atom_site_label", *(f"_atom_site_fract_{axis}" for axis in "xyz")]
        if row["atoms_occupancy"] not in (None, 0, "0"):
            lines.append("_atom_site_occupancy")
            columns.append(_amcsd_column(row["atoms_occupancy"], len(labels)))
        lines += ["   ".join(map(str, values)) for values in zip(*columns, strict=True)]
    return "\n".join(lines) + "\n"


def _amcsd_number(text: str | None) -> str:
    text = (text or "?").split("(")[0]
    return text.replace(",", ".") if "." not in text else text


def _amcsd_column(packed: str | int | None, count: int) -> list[str]:
    """Unpacks numbers with six decimals, without trailing zeros; 2 and 3 mean ? and `.`."""
    if packed in (None, 0, "0"):
        return ["0.0"] * count
    numbers = np.frombuffer(base64.b64decode(packed), np.int32) / 4e6
    marks = {2.0: "?", 3.0: "."}
    return [marks.get(round(float(value), 5), repr(round(float(value), 6))) for value in numbers]


if __name__ == "__main__":
    main()
