"""Hand-labelled words and sentences; what the parser must find and what it must leave alone."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import clac_jax
from clac_jax.elements import symbol
from clac_jax.formula import find_formulas, is_formula, replace_formulas


def _table(words: str) -> list[str]:
    return words.split()


# Named in the specification of the replacement and in the list of known faults: no exception.
REQUIRED_FORMULAS = _table("""
Ca3V3(AsO4)4 Zn(AgO2)2 NaSr(PO3)3 BiO2 Te2MoWSeS NaCl Pb(Zr0.52Ti0.48)O3 La0.7Sr0.3MnO3 C60
LiNi1/3Mn1/3Co1/3O2 TiO2-x YBa2Cu3O7-δ K2[PtCl4] CaSO4·2H2O InP CoSi
""")

REQUIRED_WORDS = _table("""
SEM TEM DFT PBE XRD DOS HOMO LUMO MOF ZIF NMC FTIR XPS NIST LEDs GHz GPa OH III III-V NO He In HF
123 0.5 No As P6_3/mmc Fm-3m C2/c Pnma I4/mcm P-1 Cm Pm-3m I-42d C2 P1 F-43m Cc Pn Pbca
""")

FORMULAS = _table("""
H2O CO2 CH4 NH3 SiO2 TiO2 ZnO Fe2O3 Fe3O4 Al2O3 MgO CaO SrTiO3 BaTiO3 PbTiO3 LaAlO3 KNbO3 LiNbO3
GaN GaAs InAs AlN SiC B4C BaF2 CaF2 CsPbI3 CsPbBr3 CdTe CdSe PbS SnSe SnO2 WO3 MoS2 WS2 WSe2
LiCoO2 LiFePO4 LiMn2O4 LiPF6 Li2S Na3V2(PO4)3 Na2Ti3O7 Li7La3Zr2O12 Li10GeP2S12
Li1.3Al0.3Ti1.7(PO4)3 MgSiO3 Mg2SiO4 CaCO3 CaMg(CO3)2 KAlSi3O8 NaAlSi3O8 Ca10(PO4)6(OH)2
Ca5(PO4)3F Al2Si2O5(OH)4 KMg3(AlSi3O10)(OH)2 Cu(OH)2 Ni(OH)2 Al(OH)3 NaOH KOH KCN HCN HNO3 H2SO4
H3PO4 HCl KBr NaI (NH4)2SO4 NH4NO3 (NH4)H2PO4 K3[Fe(CN)6] [Cu(NH3)4]SO4 Na2[Fe(CN)5NO]
Fe4[Fe(CN)6]3 K4Fe(CN)6 CuSO4·5H2O CuSO4•5H2O CuSO4*5H2O CuSO4.5H2O MgSO4·7H2O Na2CO3·10H2O
3CaO·SiO2 CaSO4·0.5H2O Zr6O4(OH)4 [Fe(CN)6]3- [Fe(CN)6]4− SO4^2- CO3^{2-} NH4+ NO3- PO4³⁻ H3O+
MnO4⁻ TiO2−x CeO2-x CeO2-δ YBa2Cu3O7-x YBa2Cu3O6+x La2-xSrxCuO4 Ga1-xMnxAs Mg1-xZnxO InxGa1-xN
AlxGa1-xAs LixCoO2 NaxCoO2 SiOx SiNx HfOx TaOx CsPb(BrxI1-x)3 Ba(Zr0.2Ti0.8)O3 BaZr0.2Ti0.8O3
La1-xSrxMnO3 Ba0.5Sr0.5Co0.8Fe0.2O3-δ Pr0.5Ca0.5MnO3 Bi2Sr2CaCu2O8+δ Bi2Sr2CaCu2O8+x Srn+1RunO3n+1
SrO(SrTiO3)n La(Fe,Si)13 (Mg,Fe)SiO3 (Ba,Sr)TiO3 Ba(Zr,Ti)O3 (Ga,Mn)As Pb(Mg1/3Nb2/3)O3
(Bi0.5Na0.5)TiO3 LiNi0.8Co0.1Mn0.1O2 LiNi0.33Mn0.33Co0.33O2 Li1.2Mn0.54Ni0.13Co0.13O2
Na2/3Ni1/3Mn2/3O2 H₂O TiO₂ Fe₂O₃ La₀.₇Sr₀.₃MnO₃ YBa₂Cu₃O₇₋δ TiO₂₋ₓ Li₇La₃Zr₂O₁₂ C₆₀ TiO_2 TiO_{2}
TiO$_2$ TiO$_{2}$ Fe$_3$O$_4$ YBa$_2$Cu$_3$O$_{7-x}$ TiO<sub>2</sub> Bi_2Te_3 In_{x}Ga_{1-x}N
Al_{0.3}Ga_{0.7}As CH3NH3PbI3 (CH3NH3)PbI3 HC(NH2)2PbI3 CH3OH CH3COOH C2H5OH C6H6 C8H18 C2H4 C70
C3N4 C60H36 Ti3C2Tx Ti3C2Tₓ Ti3AlC2 Ti3SiC2 Cr2AlC Nb3Sn MgB2 LaH10 H3S LaFeAsO FeSe BaFe2As2
Sr2RuO4 CeCoIn5 UPt3 URu2Si2 UO2 U3O8 PuO2 ThO2 AmO2 XeF2 NiTi FeCo NiAl Ni3Al TiAl CuZn AuCu3
Nd2Fe14B SmCo5 Sm2Co17 BiOCl BiOI BiVO4 YOF KSCN D2O NaOD C6D6 WB2 V2O5 VO2 K2O KO2 PF5 SF6 N2O
NO2 SO2 P2O5 Si8 Fe2 0.7BiFeO3 2H2O HfO2 ZrW2O8 BiCuSeO Cu2ZnSnS4 CuInSe2 CuIn0.7Ga0.3Se2 AgCl
AgBr Hg2Cl2 TlBr CuSCN
""")

WORDS = _table("""
a I A the Band Gap It Is At Be As In He No Co Os I'm Bi-layer Sn-doped Pb-free Si-rich Ti-O Ca–O
Mg-O-Mg Fe2+ Fe3+ Ca2+ O2- Cl- Na+ Ti4+ Cu⁺ Fe(III) Cu(I) Ti(IV) Mn(II) Ca(1) O(12) Fe1 Pt(111)
Si(100) O2 H2 N2 F2 P4 S8 CN UV IR CV PV IV VI II VIII XI CB VB BO HSE06 HSE PBEsol SCAN B3LYP LDA
GGA PBE0 PW91 CP2K VASP QE CALPHAD USPEX NMR EPR ESR EDS EDX EELS AFM STM XANES EXAFS XAS ARPES
BET TGA DSC CVD ALD MBE PLD PVD RHEED FET MOSFET LED OLED PV SOFC PEM HER OER ORR SHE RHE SOC SOI
CIF FCC BCC HCP PBC SCF CBM VBM NIR UHV USB CPU GPU RAM PDF ICSD MP COD NOMAD AI ML GNN CNN SVM
NLP BERT GPT-4 MAE RMSE R2 UFO USA UK EU NASA UNO ISO9001 PhD CoNCEPT PyPI NaN HeLa HeNe ICs SOCs
NPs MOFs ZIF-8 HKUST-1 MIL-101 UiO-66 NMC811 NCA YBCO LSMO PZT BTO STO LFP PEDOT PMMA PVDF P3HT
PCBM ITO FTO YSZ LLZO LiPON DNA RNA IC50 H5N1 P1 P2 C222 F222 I222 P212121 P21/c P2_1/c P2_12_12_1
C2/m C12/m1 R-3m R3c I4_1/amd I41/amd Fd-3m Ia-3d Pa-3 Pn-3m P6/mmm P63mc P63/mmc P-62m P4/nmm
Cmcm Cmc21 Pca21 Pna2_1 Imma Immm F-43m Fddd I-43m P3m1 P-3m1 P312 P432 A15 B1 B2 B20 C14 C15 C36
L1_2 D0_3 DO19 C2v C3v D4h Oh Td S4 eV meV keV MPa kHz THz Hz GHz K 300K 10K 5V 3.2V mAh g/cm^3
cm-1 W/mK kJ/mol Å nm µB T Wh ppm Ra 2D 3D 1D 0D 4H 6H 2H U235 U-235 C13 13C He3 Cs137 H100 A100
S10 N95 F16 V100 B12 D3 ABO3 MAlO2 AB2O4 ABX3 MX2 A2BX6 MAX M2X RE2O3 Ln2O3 X2 AB Six Cox Box Fox
Lux Tax Nix Any Boy Copy Hex Cu-based Al-rich K-edge Kα CuKα L-edge O1s C1s Fe3d O2p Ti3d sp3 d10
Γ-point α β-phase (Ca,Sr,Ba) (I) (II) [001] (110) {111} et al. Fig.1 Table2 Eq.3 No.62 Ref.12
10.1103/PhysRevB.54.11169 S0163-1829 http://example.org/C3H8/x 12345 3.14 1e5 2020 -0.5
""")

# Whole sentences, with what must come out (None: the same).
SENTENCES = [
    ("NO crystallizes in P2_1/c.", "X crystallizes in P2_1/c."),
    ("NO bands cross.", None),
    ("There is NO gap.", None),
    ("In the HF limit, HF fails.", None),
    ("Etch it in HF solution.", "Etch it in X solution."),
    ("HF crystallizes in Cmc2_1.", "X crystallizes in Cmc2_1."),
    ("In InP, In is bonded to P.", "In X, In is bonded to P."),
    ("He found that He is inert.", None),
    ("The compound KF is ionic.", "The compound X is ionic."),
    ("The formula: VN.", "The formula: X."),
    ("h-BN and cubic BN", "h-X and cubic X"),
    ("BN nanosheets and CO molecules", "X nanosheets and X molecules"),
    ("COF crystals and UV light", None),
    ("US researchers; BC era", None),
    ("CIN crystallizes in Cm.", "X crystallizes in Cm."),
    ("OH crystallizes nowhere.", None),
    ("NaCl.", "X."),
    ("(NaCl)", "(X)"),
    ("\"NaCl\", 'KBr'; TiO2: ZnO, GaN!", "\"X\", 'X'; X: X, X!"),
    ("TiO2-based and non-TiO2 α-Fe2O3", "X-based and non-X α-X"),
    ("TiO2/SiO2 and LiFePO4/C", "X/X and X/C"),
    ("SiO2/4H-SiC and 2H-MoS2", "X/4H-X and 2H-X"),
    ("CaO+TiO2 -> CaTiO3", "X+X -> X"),
    ("0.7BiFeO3-0.3BaTiO3", "X-X"),
    ("CaSO4 · 2H2O dissolves", "X dissolves"),
    ("the (Ba, Sr)TiO3 film", "the X film"),
    ("metals (Ca, Sr, Ba) and K", None),
    ("TiO2(110) and NaCl's", "X(110) and X's"),
    ("the Fe2 site and 2 Fe2 atoms", None),
    ("Ca2+ is bonded to six O2- atoms in CaO6.", "Ca2+ is bonded to six O2- atoms in X."),
    ("$\\mathrm{TiO_2}$ and \\ce{H2O}", "$\\mathrm{X}$ and \\ce{X}"),
    ("TiO2-xerogel of SiO2", "X-xerogel of X"),
    ("a III-V, GaAs (F-43m), at 5 GPa", "a III-V, X (F-43m), at 5 GPa"),
    ("XRD and SEM of ZIF-8@TiO2", "XRD and SEM of ZIF-8@X"),
    ("C60 molecules in C2/c", "X molecules in C2/c"),
    ("Figure S10, PW91 and CP2K", None),
    ("FeO\nFe2O3\tFe3O4", "X\nX\tX"),
    ("Fe-doped K2NiF4-type La2CuO4", "Fe-doped X-type X"),
    ("5% CO2 at 300 K and 1.5 V", "5% X at 300 K and 1.5 V"),
    ("Iron(III) oxide, Fe2O3, Pbca.", "Iron(III) oxide, X, Pbca."),
    ("PO43- and CO32- ions", "X and X ions"),
    ("", ""),
]


@pytest.mark.parametrize("token", REQUIRED_FORMULAS)
def test_required_formula(token):
    assert is_formula(token)
    assert replace_formulas(f"We made {token}, it ({token}) is {token}.") == (
        "We made material, it (material) is material."
    )


@pytest.mark.parametrize("token", REQUIRED_WORDS)
def test_required_word(token):
    text = f"We saw {token}, it ({token}) is {token}."
    assert not is_formula(token)
    assert replace_formulas(text) == text


def test_precision_and_recall():
    """Every word in a sentence that gives no hint; a formula must be found as a whole."""
    missed, wrong = [], []
    for token in FORMULAS:
        if find_formulas(f"We saw {token} there.") != [(7, 7 + len(token))]:
            missed.append(token)
    for token in WORDS:
        if find_formulas(f"We saw {token} there."):
            wrong.append(token)
    found = len(FORMULAS) - len(missed)
    precision, recall = found / (found + len(wrong)), found / len(FORMULAS)
    print(
        f"{len(FORMULAS)} formulas, {len(WORDS)} others: precision {precision:.4f}, "
        f"recall {recall:.4f}, missed {missed}, wrong {wrong}"
    )
    assert len(FORMULAS) + len(WORDS) >= 500
    assert precision >= 0.99
    assert recall >= 0.99


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_sentence(text, expected):
    assert replace_formulas(text, word="X") == (text if expected is None else expected)


def test_known_formulas_are_replaced_whatever_their_shape():
    text = "In crystallizes in I4/mmm. In the In cell, 3 In atoms. In In2O3, KF and K at 300 K."
    assert replace_formulas(text, also=("In", "KF", "K")) == (
        "material crystallizes in I4/mmm. In the material cell, 3 material atoms. "
        "In material, material and material at 300 K."
    )
    assert replace_formulas("CO, COx and CO-rich", "X", also=("CO",)) == "X, X and X-rich"
    assert replace_formulas("P in P-1 and P2_1/c", "X", also=("P",)) == "X in P-1 and P2_1/c"
    assert replace_formulas("Si, a metal, has Si–Si", "X", also=("Si",)) == "X, a metal, has X–X"
    assert replace_formulas("In, a metal", "X", also=("In",)) == "X, a metal"
    assert replace_formulas("No change", "X", also=("",)) == "No change"


ELEMENTS = st.sampled_from([symbol(z) for z in range(3, 95) if z not in (10, 18, 36, 54, 85, 86)])
COUNTS = st.sampled_from(["", "2", "3", "4", "12", "0.5", "1.75", "1/3"])


@given(st.lists(st.tuples(ELEMENTS, COUNTS), min_size=2, max_size=5, unique_by=lambda p: p[0]))
@settings(max_examples=300, deadline=None)
def test_any_composition_is_found(parts):
    # One count makes it a formula for sure, whatever the symbols spell.
    formula = "".join(name + count for name, count in parts) + "O2"
    assert find_formulas(f"Is {formula} stable?") == [(3, 3 + len(formula))]
    group = f"Li2({formula})3"
    assert find_formulas(f"Is {group} stable?") == [(3, 3 + len(group))]


@given(st.text(alphabet="()[]{}CaOTi123.,/·-+_^$<>sub xδ₂\n", max_size=40))
@settings(max_examples=500, deadline=None)
def test_spans_are_ordered_and_the_rest_is_kept(text):
    spans = find_formulas(text)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    kept, at = "", 0
    for start, end in spans:
        kept, at = kept + text[at:start] + "#", end
    assert replace_formulas(text, "#") == kept + text[at:]


@pytest.mark.parametrize(
    "text", ["(" * 5000, "Ca(" * 3000, "CO" * 20000, "A1" * 20000, "O-" * 9000]
)
def test_hostile_text_comes_to_an_end(text):
    """Backtracking over these would take longer than anybody waits."""
    assert all(0 <= start < end <= len(text) for start, end in find_formulas(text))


def test_the_embedded_compounds_are_found():
    path = (
        Path(clac_jax.__file__).parent
        / "datasets/materials_project_mini/materials_project_mini.parquet"
    )
    if not path.exists():
        pytest.skip("the embedded data set is not built")
    parquet = pytest.importorskip("pyarrow.parquet")
    formulas = set(parquet.read_table(path, columns=["formula"])["formula"].to_pylist())
    plain = [f for f in formulas if len(f) > 2]
    assert len(plain) > 1000
    rest = "crystallizes in the cubic Fm-3m space group (No. 225)."
    assert [f for f in plain if find_formulas(f"{f} {rest}") != [(0, len(f))]] == []
    for formula in formulas:
        assert replace_formulas(f"{formula} {rest}", also=(formula,)) == f"material {rest}"
