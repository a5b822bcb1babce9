"""Parts of CIF texts, and the texts of the stored faults."""

from pathlib import Path

FAULTS = Path(__file__).parents[1] / "data" / "faults"


QUARTZ = """data_comment_only
_journal_year 2020
data_quartz
_cell_length_a 4.9137
_cell_length_b 4.9137
_cell_length_c 5.4047
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 120
loop_
_symmetry_equiv_pos_as_xyz
'x, y, z'
'-y, x-y, z+2/3'
'-x+y, -x, z+1/3'
'y, x, -z+2/3'
'x-y, -y, -z'
'-x, -x+y, -z+1/3'
loop_
_atom_site_label
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Si1 0.4697 0.0000 0.0000 1.0
O1 0.4133 0.2672 0.1188 1.0
"""


def fault(name):
    """The text of a stored CIF by its number."""
    (path,) = FAULTS.glob(f"{name}_*.cif")
    return path.read_text(encoding="utf-8")


def cell(a=6.0, b=None, c=None, angles=(90, 90, 90)):
    """The tags of a cell; lengths in angstrom, angles in degrees."""
    values = (a, b or a, c or a, *angles)
    tags = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    return "".join(f"_cell_{tag} {value}\n" for tag, value in zip(tags, values, strict=True))


def sites(*rows, columns=("label", "fract_x", "fract_y", "fract_z")):
    """A loop of atoms, one row each."""
    tags = "".join(f"_atom_site_{column}\n" for column in columns)
    return "loop_\n" + tags + "".join(f"{row}\n" for row in rows)


def operations(*triplets, tag="_space_group_symop_operation_xyz"):
    """A loop of symmetry operations."""
    return f"loop_\n{tag}\n" + "".join(f"'{triplet}'\n" for triplet in triplets)


def text_of(*parts):
    """A CIF text of these parts."""
    return "data_x\n" + "".join(part if part.endswith("\n") else part + "\n" for part in parts)


NA_AND_CL = sites("Na1 0 0 0", "Cl1 0.5 0.5 0.5")
