"""Files of CIFs: compressed, magnetic, and in several encodings."""

import bz2
import gzip
import lzma
import tracemalloc

import pytest
from helpers.cif import cell, sites, text_of
from helpers.crystals import NACL

from clac_jax.crystals import Crystal, CrystalError, cif_file

COMPRESS = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".XZ": lzma.compress,
}
ANTITRANSLATION = text_of(
    cell(5.0),
    "loop_\n_space_group_symop_magn_operation.id\n_space_group_symop_magn_operation.xyz",
    "1 x,y,z,+1\n2 -x,-y,z,+1",
    "loop_\n_space_group_symop_magn_centering.id\n_space_group_symop_magn_centering.xyz",
    "1 x,y,z,+1\n2 x+1/2,y+1/2,z+1/2,-1",
    sites("Fe1 0.1 0.2 0.3"),
)


@pytest.mark.parametrize("packed", COMPRESS)
@pytest.mark.parametrize("ending", [".cif", ".mcif", ".CIF"])
def test_a_cif_is_read_alike_whether_compressed_or_not(tmp_path, ending, packed):
    path = tmp_path / f"a{ending}{packed}"
    path.write_bytes(COMPRESS[packed](ANTITRANSLATION.encode()))
    assert Crystal.from_file(path).num_atoms == 4


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (NACL + "_chemical_formula_sum 'Na Cl2'\n", "formula sum"),
        (text_of(cell(3.6), "_symmetry_space_group_name_H-M 'F d -3 m'", sites("C 0 0 0")), "F d"),
    ],
)
def test_a_cif_that_is_refused_is_refused_if_compressed(tmp_path, packed, text, words):
    (tmp_path / f"a.cif{packed}").write_bytes(COMPRESS[packed](text.encode()))
    with pytest.raises(CrystalError, match=rf"a\.cif\{packed} cannot be used: .*{words}"):
        Crystal.from_file(tmp_path / f"a.cif{packed}")


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz"])
def test_a_damaged_compressed_file_is_named(tmp_path, packed):
    intact = COMPRESS[packed](NACL.encode() * 50)
    path = tmp_path / f"a.cif{packed}"
    flipped = bytearray(intact)
    flipped[len(intact) // 2] ^= 0xFF
    for content in (intact[:-6], intact[: len(intact) // 2], NACL.encode(), bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(CrystalError, match=r"cannot be used: It cannot be decompressed \(.+\)"):
            Crystal.from_file(path)


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz"])
def test_a_file_that_would_fill_the_memory_is_refused(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(cif_file, "MAX_BYTES", 1 << 20)
    path = tmp_path / f"a.cif{packed}"
    path.write_bytes(COMPRESS[packed](bytes(1 << 25)))
    tracemalloc.start()
    with pytest.raises(CrystalError, match="decompressed to more than 1 MiB"):
        Crystal.from_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_cif_with_a_byte_order_mark_is_read(tmp_path, encoding):
    mark = "" if encoding in ("utf-8-sig", "utf-16") else "\ufeff"
    for name, packed in (("a.cif", bytes), ("a.cif.gz", gzip.compress)):
        (tmp_path / name).write_bytes(packed((mark + NACL).encode(encoding)))
        assert Crystal.from_file(tmp_path / name).num_atoms == 8


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-be"])
def test_another_encoding_is_named(tmp_path, encoding):
    (tmp_path / "a.cif").write_bytes(NACL.encode(encoding))
    with pytest.raises(CrystalError, match=r"in UTF-16 or not a text. Save it as UTF-8"):
        Crystal.from_file(tmp_path / "a.cif")
