"""Sentences about the known properties of a crystal, each with its unit."""

from __future__ import annotations

import random
from collections.abc import Mapping

from tools.materials_project_mini.compound import Compound
from tools.materials_project_mini.english import article, capital


def property_sentences(
    compound: Compound, properties: Mapping[str, float], rng: random.Random
) -> list[str]:
    """One sentence per group of known properties, with all values.

    Args:
        compound: the compound, for the words that refer to it.
        properties: name -> value, in the units of the data set (eV/atom, eV, GPa, C/m^2).
        rng: source of randomness for the wording.
    """
    makers = (_formation, _hull, _gap, _elastic, _dielectric, _piezoelectric)
    sentences = [sentence for make in makers for sentence in make(compound, properties, rng)]
    return [capital(sentence) for sentence in sentences]


def _formation(c: Compound, p: Mapping[str, float], rng: random.Random) -> list[str]:
    value = p.get("formation energy per atom")
    if value is None:
        return []
    it = c.it(rng)
    if c.is_element:
        if abs(value) < 0.0005:
            return [
                rng.choice([
                    "as the reference state of the element, it has a formation energy of zero.",
                    f"the formation energy of {it} is zero, because it is the reference state.",
                ])
            ]  # fmt: skip
        return [f"the energy of {it} is {value:.3f} eV/atom above the reference state of the "
                "element." if value > 0 else
                f"the formation energy of {it} is {value:.3f} eV/atom."]  # fmt: skip
    amount = f"{value:.2f} eV/atom"
    if abs(value) < 0.005:
        return [f"the formation energy of {it} is close to zero."]
    if value > 0:
        return [
            rng.choice([
                f"the formation energy of {it} is positive, {amount}.",
                f"forming {it} from the elements costs {amount}.",
                f"with a formation energy of +{amount}, {it} is less stable than the elements.",
            ])
        ]  # fmt: skip
    return [
        rng.choice([
            f"the formation energy of {it} is {amount}.",
            f"{it} has a computed formation energy of {amount}.",
            f"density functional theory gives {it} a formation energy of {amount}.",
            f"forming {it} from the elements releases {-value:.2f} eV/atom.",
        ])
    ]  # fmt: skip


def _hull(c: Compound, p: Mapping[str, float], rng: random.Random) -> list[str]:
    value = p.get("energy above hull")
    if value is None:
        return []
    it = c.it(rng)
    if value < 0.0005:
        return [
            rng.choice([
                f"{it} lies on the convex hull and is thermodynamically stable.",
                f"no mixture of other phases is lower in energy than {it}, which is on the hull.",
                f"with an energy above hull of zero, {it} is a stable phase.",
            ])
        ]  # fmt: skip
    amount = f"{value:.3f} eV/atom"
    how = "slightly metastable" if value < 0.05 else "metastable" if value < 0.2 else "unstable"
    return [
        rng.choice([
            f"{it} lies {amount} above the convex hull and is {how}.",
            f"the energy above hull of {it} is {amount}.",
            f"with {amount} above the convex hull, {it} is {how}.",
        ])
    ]  # fmt: skip


def _gap(c: Compound, p: Mapping[str, float], rng: random.Random) -> list[str]:
    value = p.get("band gap")
    if value is None:
        return []
    it = c.it(rng)
    if value < 0.005:
        return [
            rng.choice([
                f"{it} has no band gap in DFT-PBE and is predicted to be metallic.",
                f"for {it}, PBE calculations find no band gap.",
                f"the computed (PBE) band gap of {it} is zero, as in a metal.",
                f"{it} is metallic according to PBE band structures.",
            ])
        ]  # fmt: skip
    kind = (
        "nearly gapless solid"
        if value < 0.1
        else "narrow-gap semiconductor"
        if value < 1.0
        else "semiconductor"
        if value < 3.0
        else "wide-gap semiconductor"
        if value < 5.0
        else "wide-gap insulator"
    )
    return [
        rng.choice([
            f"the PBE band gap of {it} is {value:.2f} eV.",
            f"{it} is {article(kind)} with a computed PBE band gap of {value:.2f} eV.",
            f"a band gap of {value:.2f} eV (DFT-PBE) makes {it} {article(kind)}.",
            f"DFT-PBE predicts {article(kind)}, with a gap of {value:.2f} eV.",
        ])
    ]  # fmt: skip


def _elastic(c: Compound, p: Mapping[str, float], rng: random.Random) -> list[str]:
    bulk, shear = p.get("bulk modulus"), p.get("shear modulus")
    sentences = []
    it = c.it(rng)
    if bulk is not None and shear is not None:
        b, g = f"{bulk:.0f} GPa", f"{shear:.0f} GPa"
        choices = [
            f"the bulk modulus of {it} is {b} and its shear modulus {g}.",
            f"{it} has a bulk modulus of {b} and a shear modulus of {g}.",
        ]
        if bulk > 200 and shear > 100:
            choices.append(f"{it} is stiff, with bulk and shear moduli of {b} and {g}.")
        if bulk < 40:
            choices.append(f"{it} is soft, with bulk and shear moduli of {b} and {g}.")
        sentences.append(rng.choice(choices))
    elif bulk is not None:
        sentences.append(f"the bulk modulus of {it} is {bulk:.0f} GPa.")
    elif shear is not None:
        sentences.append(f"the shear modulus of {it} is {shear:.0f} GPa.")
    ratio, anisotropy = p.get("poisson ratio"), p.get("elastic anisotropy")
    # An index of 0.00 would read as a perfectly isotropic crystal.
    index = (
        "under 0.01" if anisotropy is not None and anisotropy < 0.01 else f"{anisotropy or 0:.2f}"
    )
    if ratio is not None and anisotropy is not None:
        sentences.append(
            rng.choice([
                f"the Poisson ratio is {ratio:.2f} and the universal elastic anisotropy {index}.",
                f"elastically, the Poisson ratio is {ratio:.2f} and the anisotropy index {index}.",
            ])
        )  # fmt: skip
    elif ratio is not None:
        sentences.append(f"the Poisson ratio of {it} is {ratio:.2f}.")
    elif anisotropy is not None:
        sentences.append(f"the universal elastic anisotropy of {it} is {index}.")
    return sentences


def _dielectric(c: Compound, p: Mapping[str, float], rng: random.Random) -> list[str]:
    refraction = p.get("refractive index")
    total, electronic = p.get("dielectric constant"), p.get("electronic dielectric constant")
    it = c.it(rng)
    sentences = []
    if refraction is not None:
        n = f"{refraction:.2f}"
        sentences.append(
            rng.choice([
                f"the refractive index of {it} is {n}.",
                f"{it} has a computed refractive index of {n}.",
                f"light travels through {it} with a refractive index of {n}.",
            ])
        )  # fmt: skip
    if total is not None and electronic is not None:
        t, e = f"{total:.1f}", f"{electronic:.1f}"
        sentences.append(
            rng.choice([
                f"the total dielectric constant is {t}, with an electronic part of {e}.",
                f"of the dielectric constant of {t}, the electrons contribute {e}.",
                f"the dielectric constant is {t} in total and {e} from electrons alone.",
            ])
        )  # fmt: skip
    elif total is not None:
        sentences.append(f"the dielectric constant of {it} is {total:.1f}.")
    elif electronic is not None:
        sentences.append(f"the electronic dielectric constant of {it} is {electronic:.1f}.")
    return sentences


def _piezoelectric(c: Compound, p: Mapping[str, float], rng: random.Random) -> list[str]:
    value = p.get("piezoelectric modulus")
    if value is None:
        return []
    it = c.it(rng)
    if value < 0.005:
        return [f"the piezoelectric modulus of {it} is negligible, under 0.01 C/m^2."]
    amount = f"{value:.2f} C/m^2"
    return [
        rng.choice([
            f"the piezoelectric modulus of {it} is {amount}.",
            f"{it} is piezoelectric, with a largest modulus of {amount}.",
            f"for {it}, a piezoelectric modulus of {amount} is computed.",
        ])
    ]  # fmt: skip
