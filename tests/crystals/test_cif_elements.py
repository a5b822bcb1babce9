"""Elements of the sites of CIF texts, and the formula."""

import gemmi
import pytest
from helpers.cif import cell, fault, sites, text_of
from helpers.crystals import NACL

from clac_jax.crystals import cif, elements
from clac_jax.crystals.crystal import Crystal, CrystalError

# A refused input raises its error without a prior warning.
pytestmark = pytest.mark.filterwarnings("error")


def test_deuterium_is_hydrogen():
    assert 1 in Crystal.from_cif(NACL.replace("Cl1 Cl1-", "D1 D")).atomic_numbers


@pytest.mark.parametrize("kind", ["T", "T1", "T4+", "t"])
@pytest.mark.parametrize("formula", [None, "'Si O2'", "'T O2'"])
def test_the_type_of_a_tetrahedral_site_is_not_tritium(kind, formula):
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    text = text_of(cell(), sites(f"T1 {kind} 0 0 0", "O1 O 0.5 0.5 0.5", columns=columns))
    text += f"_chemical_formula_sum {formula}\n" if formula else ""
    with pytest.raises(CrystalError, match=r"T can be a tetrahedral site or tritium.* H for"):
        Crystal.from_cif(text)


@pytest.mark.parametrize(
    ("kind", "formula", "element"),
    [
        ("Csp2", None, "C"),
        ("Csp3", "'C F'", "C"),
        ("Csp", "'Cs F'", "Cs"),
        ("Osp3", None, "O"),
        ("Cs", None, "Cs"),
        ("Cs1+", None, "Cs"),
    ],
)
def test_a_type_with_a_hybridization_has_the_element_before_it(kind, formula, element):
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    text = text_of(cell(), sites(f"A1 {kind} 0 0 0", "F1 F 0.5 0.5 0.5", columns=columns))
    text += f"_chemical_formula_sum {formula}\n" if formula else ""
    assert elements.atomic_number(element) in cif.read(text).crystal.atomic_numbers


@pytest.mark.parametrize("kind", ["Fe/Mn", "Fe3+,Mn", "Al2,Si", "(Fe,Mg)"])
def test_a_site_of_several_elements_is_refused(kind):
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    with pytest.raises(CrystalError, match=r"has several elements|not an element"):
        Crystal.from_cif(text_of(cell(), sites(f"Q1 '{kind}' 0 0 0", columns=columns)))
    with pytest.raises(CrystalError, match=r"has several elements|not an element"):
        Crystal.from_cif(text_of(cell(), sites(f"'{kind}' 0 0 0")))


def test_disorder_groups_are_refused_even_with_full_occupancies():
    columns = ("label", "fract_x", "fract_y", "fract_z", "disorder_group")
    text = text_of(cell(), sites("O1 0 0 0 1", "O2 0.3 0 0 2", "Cu 0 0 .5 .", columns=columns))
    with pytest.raises(CrystalError, match="disorder"):
        Crystal.from_cif(text)
    assert Crystal.from_cif(text.replace("0.3 0 0 2", "0.3 0 0 1")).num_atoms == 3
    columns = ("label", "fract_x", "fract_y", "fract_z", "occupancy")
    for occupancy in ("0.5", "2", "0", "-1", "1e308", "x"):
        with pytest.raises(CrystalError, match="occup"):
            Crystal.from_cif(text_of(cell(), sites(f"O1 0 0 0 {occupancy}", columns=columns)))


@pytest.mark.parametrize("name", ["Li+Na", "FeNi", "Fe0.5Ni0.5", "Fe2+Fe3+", "Na|Ca", "(Mg;Fe)"])
def test_a_site_of_two_elements_is_not_read_as_the_first(name):
    columns = ("type_symbol", "fract_x", "fract_y", "fract_z")
    for column in ("type_symbol", "label"):
        text = text_of(cell(), sites(f"{name} 0 0 0", columns=(column, *columns[1:])))
        with pytest.raises(CrystalError, match="has several elements"):
            Crystal.from_cif(text)


@pytest.mark.parametrize("name", ["NH4", "H2O", "CH3", "PO4", "Vac", "Va"])
def test_groups_of_atoms_and_vacancies_are_not_elements(name):
    columns = ("type_symbol", "fract_x", "fract_y", "fract_z")
    with pytest.raises(CrystalError, match="is not an element"):
        Crystal.from_cif(text_of(cell(), sites(f"{name} 0 0 0", columns=columns)))


def test_dummy_sites_are_not_atoms():
    assert Crystal.from_cif(fault("14")).formula == "Cu"
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    dummy = text_of(cell(), sites("Cu1 Cu 0 0 0", "Du1 Du .5 .5 .5", columns=columns))
    with pytest.raises(CrystalError, match="'Du' of the CIF is not an element"):
        Crystal.from_cif(dummy)
    assert Crystal.from_cif(dummy + "_chemical_formula_sum Cu\n").formula == "Cu"


@pytest.mark.parametrize(
    ("label", "formula", "symbol"),
    [
        ("Wat1", None, "O"),
        ("Ow", None, "O"),
        ("OW2", None, "O"),
        ("OA", None, "O"),
        ("OH", None, "O"),
        ("Ob1", None, "O"),
        ("BT2", None, "B"),
        ("Ca1", None, "Ca"),
        ("fe2", None, "Fe"),
        ("CA1", "Ca O", "Ca"),
        ("CA1", "C O", "C"),
        ("HO1", "H O", "H"),
        ("HO1", "Ho O", "Ho"),
        ("Ho1", "H O", "H"),
        ("CM2", "C O", "C"),
        ("CO3", "C O", "C"),
        ("W1", "W O", "W"),
        ("W1", "O", "O"),
        ("Nh", "N O", "N"),
        ("D1", "D O", "H"),
        ("T1", "H O", None),
        ("CA1", None, None),
        ("HO1", None, None),
        ("Xx", None, None),
        ("1", None, None),
    ],
)
def test_elements_of_labels(label, formula, symbol):
    text = text_of(cell(), sites(f"{label} 0 0 0", "O99 .5 .5 .5"))
    text += f"_chemical_formula_sum '{formula}'\n" if formula else ""
    if symbol is None:
        with pytest.raises(CrystalError, match=r"is not an element|can mean"):
            Crystal.from_cif(text)
    else:
        number = gemmi.Element(symbol).atomic_number
        assert sorted(Crystal.from_cif(text).atomic_numbers) == sorted([number, 8])


@pytest.mark.parametrize(
    ("kind", "symbol"),
    [
        ("Fe3+", "Fe"),
        ("O2-", "O"),
        ("Na1+", "Na"),
        ("CL", "Cl"),
        ("D", "H"),
        ("Wat", "O"),
        ("Si4", "Si"),
    ],
)
def test_elements_of_type_symbols(kind, symbol):
    columns = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
    crystal = Crystal.from_cif(text_of(cell(), sites(f"Q1 {kind} 0 0 0", columns=columns)))
    assert crystal.atomic_numbers.tolist() == [gemmi.Element(symbol).atomic_number]


def test_labels_are_read_as_the_elements_of_the_formula():
    with pytest.raises(CrystalError, match=r"0.4 angstrom"):  # H, not Ho, and too close to its O
        Crystal.from_cif(fault("15"))
    assert Crystal.from_cif(fault("15").replace(" 4\n", " 8\n")).formula == "CHO"


def test_a_crystal_that_contradicts_its_formula_sum_is_refused_or_used_on_request():
    with pytest.raises(cif.FormulaMismatch, match=r"H without a site.*on_formula_mismatch=take"):
        Crystal.from_cif(fault("20"))
    read = cif.read(fault("20"))
    assert (read.crystal.formula, bool(read.mismatch)) == ("MgO2", True)
    read = cif.read(fault("20").replace("H2 Mg O2", "Mg O2"))
    assert (read.crystal.formula, read.mismatch) == ("MgO2", "")


def test_attached_hydrogen_without_sites_is_a_mismatch():
    columns = ("label", "fract_x", "fract_y", "fract_z", "attached_hydrogens")
    text = text_of(cell(), sites("O1 0 0 0 2", columns=columns))
    assert "hydrogen" in cif.read(text).mismatch
    assert not cif.read(text.replace("0 0 0 2", "0 0 0 0")).mismatch


@pytest.mark.parametrize(
    ("formula", "agrees"),
    [
        ("Cl Na", True),
        ("NaCl", True),
        ("Cl4 Na4", True),
        ("Cl1.0 Na1.0", True),
        ("Na0.5 Cl0.5", True),
        ("(Na Cl)2", True),
        ("Na Cl0.98", False),
        ("Na Cl2", False),
        ("Na Cl H", False),
        ("Na", False),
        ("K Cl", False),
        ("?", True),  # an unreadable value cannot contradict
        ("x Na Cl", True),
        ("((((", True),
        ("Na Cl 2+", True),
        ("C1e99", True),
    ],
)
def test_the_formula_sum_is_compared_as_a_ratio(formula, agrees):
    assert (not cif.read(NACL + f"_chemical_formula_sum '{formula}'\n").mismatch) == agrees
