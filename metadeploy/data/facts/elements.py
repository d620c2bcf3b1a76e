"""Questions about the chemical elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from metadeploy.data.facts.category import Category, Fact

__all__ = ["CATEGORIES"]

#: Symbols and names in the order of the atomic numbers (IUPAC).
_ELEMENTS: Final = """
H hydrogen He helium Li lithium Be beryllium B boron C carbon N nitrogen O oxygen F fluorine Ne neon Na sodium
Mg magnesium Al aluminum Si silicon P phosphorus S sulfur Cl chlorine Ar argon K potassium Ca calcium Sc scandium
Ti titanium V vanadium Cr chromium Mn manganese Fe iron Co cobalt Ni nickel Cu copper Zn zinc Ga gallium Ge germanium
As arsenic Se selenium Br bromine Kr krypton Rb rubidium Sr strontium Y yttrium Zr zirconium Nb niobium Mo molybdenum
Tc technetium Ru ruthenium Rh rhodium Pd palladium Ag silver Cd cadmium In indium Sn tin Sb antimony Te tellurium
I iodine Xe xenon Cs cesium Ba barium La lanthanum Ce cerium Pr praseodymium Nd neodymium Pm promethium Sm samarium
Eu europium Gd gadolinium Tb terbium Dy dysprosium Ho holmium Er erbium Tm thulium Yb ytterbium Lu lutetium Hf hafnium
Ta tantalum W tungsten Re rhenium Os osmium Ir iridium Pt platinum Au gold Hg mercury Tl thallium Pb lead Bi bismuth
Po polonium At astatine Rn radon Fr francium Ra radium Ac actinium Th thorium Pa protactinium U uranium Np neptunium
Pu plutonium Am americium Cm curium Bk berkelium Cf californium Es einsteinium Fm fermium Md mendelevium No nobelium
Lr lawrencium Rf rutherfordium Db dubnium Sg seaborgium Bh bohrium Hs hassium Mt meitnerium Ds darmstadtium
Rg roentgenium Cn copernicium Nh nihonium Fl flerovium Mc moscovium Lv livermorium Ts tennessine Og oganesson
"""
_SPELLINGS: Final = {
    "aluminum": ("aluminium",),
    "cesium": ("caesium",),
    "sulfur": ("sulphur",),
    "tungsten": ("wolfram",),
}


def _elements() -> Iterator[tuple[int, str, tuple[str, ...], str]]:
    """Atomic number, symbol, accepted names and entity of every element."""
    words = _ELEMENTS.split()
    for number, (symbol, name) in enumerate(zip(words[::2], words[1::2], strict=True), start=1):
        yield number, symbol, (name, *_SPELLINGS.get(name, ())), f"element:{symbol}"


def _symbols(_seed: int) -> Iterator[Fact]:
    for _, symbol, names, entity in _elements():
        yield Fact(names[0], (symbol,), entity)


def _names(_seed: int) -> Iterator[Fact]:
    for _, symbol, names, entity in _elements():
        yield Fact(symbol, names, entity)


def _numbers(_seed: int) -> Iterator[Fact]:
    for number, _, names, entity in _elements():
        yield Fact(names[0], (str(number),), entity)


CATEGORIES: Final = (
    Category(
        "element_symbol",
        "chemical symbols",
        (
            "What is the chemical symbol for {}?",
            "What is the symbol of the element {}?",
            "Which symbol stands for {} in the periodic table?",
        ),
        _symbols,
        repeats=2,
    ),
    Category(
        "element_name",
        "element by its symbol",
        (
            "Which chemical element has the symbol {}?",
            "What element does the chemical symbol {} stand for?",
            "In the periodic table, which element is {}?",
        ),
        _names,
    ),
    Category(
        "element_number",
        "atomic numbers",
        ("What is the atomic number of {}?", "How many protons does an atom of {} have?"),
        _numbers,
    ),
)
