r"""10 m is not 10 cm, and is 1000 cm; a unit that only one side writes does not count.

Units at the end of normal text (``\text{ cm}^2``, ``km/h``, ``dollars``, ``°``, ``%``) and money in front of it. What
is no unit of the table is a label of its own: apples are not oranges.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

MAX_CHARS = 400
"""Longer texts have no unit."""
Dimensions = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Unit:
    scale: Fraction
    """Of the dimensions' own units."""
    dimensions: Dimensions
    """Base unit and power, by name; () for a percentage."""
    is_sure: bool = True
    """False where a letter may as well be a variable: ``5m``."""


PERCENT = Unit(Fraction(1, 100), ())
DEGREE = Unit(Fraction(1), (("degree", 1),))
ARC_MINUTE = Unit(Fraction(1, 60), DEGREE.dimensions)
ARC_SECOND = Unit(Fraction(1, 3600), DEGREE.dimensions)
RADIAN = Unit(Fraction(1), (("radian", 1),))
POUND = Unit(Fraction(45359237, 100_000_000), (("kg", 1),))
STERLING = Unit(Fraction(1), (("£", 1),))
FOOT = Unit(Fraction(3048, 10000), (("m", 1),))
INCH = Unit(Fraction(254, 10000), (("m", 1),))

_BASES: dict[str, dict[str, int | str]] = {
    # dimension: {names: scale}
    "m": {
        "m meter metre": 1, "km kilometer kilometre": 1000, "cm centimeter centimetre": "1/100",
        "dm decimeter decimetre": "1/10", "mm millimeter millimetre": "1/1000",
        "μm um micrometer micrometre micron": "1/1000000",
        "nm nanometer nanometre": "1/1000000000", "in inch": "254/10000", "ft foot feet": "3048/10000",
        "yd yard": "9144/10000", "mi mile": "1609344/1000",
    },
    "kg": {
        "kg kilogram kilo": 1, "g gm gram gramme": "1/1000", "mg milligram": "1/1000000", "t ton tonne": 1000,
        "lb pound": "45359237/100000000", "oz ounce": "28349523125/1000000000000",
    },
    "s": {
        "s sec second": 1, "ms millisecond": "1/1000", "min minute": 60, "h hr hour": 3600, "day d": 86400,
        "week wk": 604800,
    },
    "month": {"month mo": 1, "year yr": 12, "decade": 120, "century": 1200},
    "A": {"A amp ampere": 1, "mA milliampere": "1/1000"},
    "K": {"K kelvin": 1},
    "mol": {"mol mole": 1},
    "degree": {"° deg degree": 1},
    "radian": {"rad radian": 1},
    "dollar": {"$ dollar usd buck": 1, "cent ¢": "1/100"},
    "euro": {"€ euro eur": 1},
    "£": {"£ gbp": 1},
    "rupee": {"₹ rupee rs inr": 1},
    "yen": {"¥ yen jpy": 1},
    "celsius": {"celsius": 1},
    "fahrenheit": {"fahrenheit": 1},
    "bit": {"bit": 1, "byte": 8},
}  # fmt: skip
_PRODUCTS = {
    "N newton": "kg m s-2", "J joule": "kg m2 s-2", "W watt": "kg m2 s-3", "Pa pascal": "kg m-1 s-2", "Hz hertz": "s-1",
    "C coulomb": "A s", "V volt": "kg m2 s-3 A-1", "Ω ohm": "kg m2 s-3 A-2", "mph": "mi h-1", "kph kmh kmph": "km h-1",
    "L l liter litre": "dm3", "mL ml milliliter millilitre cc": "cm3", "rpm": "revolution min-1", "ha hectare": "km2",
}  # fmt: skip
_SCALES = {"kJ kilojoule": "J", "kN": "N", "kW kilowatt": "W", "kPa": "Pa", "kHz": "Hz", "kV": "V"}
_NEUTRAL = frozenset({"unit", "units", "u"})
_IRREGULAR = {"feet": "foot", "inches": "inch", "people": "person", "men": "man", "women": "woman", "children": "child"}
_POWERS = {"square": 2, "squared": 2, "sq": 2, "cubic": 3, "cu": 3, "cubed": 3}
_SHORT = (
    "km cm dm mm μm nm in ft yd mi kg gm mg lb oz sec ms min hr day mph kph kmh rpm mol rad deg usd eur mL ml "
    "kJ kN kW kPa kHz kV Hz Pa cc ha wk yr mo mA rs"
)
_SHORT_WORDS = frozenset(_SHORT.split())
"""Units of two letters and more that need no ``\text``."""


def _table() -> dict[str, Unit]:
    table: dict[str, Unit] = {}
    for dimension, names in _BASES.items():
        for ways, scale in names.items():
            for way in ways.split():
                table[way] = Unit(Fraction(scale), ((dimension, 1),))
    for ways, product in _PRODUCTS.items():
        for way in ways.split():
            table[way] = _product([_parsed_power(part, table) for part in product.split()])
    for name in ("hectare", "ha"):
        table[name] = Unit(Fraction(10_000), table[name].dimensions)
    for ways, base in _SCALES.items():
        for way in ways.split():
            table[way] = Unit(1000 * table[base].scale, table[base].dimensions)
    return table


def _parsed_power(part: str, table: dict[str, Unit]) -> Unit:
    name, power = re.fullmatch(r"(\D+?)(-?\d*)", part).groups()  # type: ignore[union-attr]
    return _raised(table.get(name, Unit(Fraction(1), ((name, 1),))), int(power or 1))


def _raised(unit: Unit, power: int) -> Unit:
    return Unit(unit.scale**power, tuple((name, count * power) for name, count in unit.dimensions), unit.is_sure)


def _product(units: list[Unit]) -> Unit:
    scale, dimensions = Fraction(1), Counter[str]()
    for unit in units:
        scale *= unit.scale
        for name, power in unit.dimensions:
            dimensions[name] += power
    kept = tuple(sorted((name, power) for name, power in dimensions.items() if power))
    return Unit(scale, kept, all(unit.is_sure for unit in units))


_TABLE = _table()

_TAIL = re.compile(
    r"(?:(?<=[\d)}\]πe!%°.⦄])|(?<=[A-Za-zα-ω])(?=\s*\\text))(\s*)((?:\\text\{[^{}]*\}|[A-Za-zμΩ°$€£¥₹¢%])(?:\\text\{[^{}]*\}|[A-Za-zμΩ°$€£¥₹¢%]|\^\{?-?\d\}?|[/*.\s-])*)$"
)
_MONEY = re.compile(r"(-?)\s*(?:US)?([$€£¥₹]|(?:USD|EUR|Rs\.?|INR|GBP)\s)\s*(?=[-\d.\\])(.+)$")
_FACTOR = re.compile(r"(/|\bper\b)|([A-Za-zμΩ°$€£¥₹¢%]+)(?:\s*\^\{?(-?\d)\}?)?")


def split_unit(text: str) -> tuple[str, Unit | None] | None:
    """What stands before a unit, and the unit; the unit is None where it says nothing (``units``). None: no unit."""
    if (money := _MONEY.match(text)) and (unit := _TABLE.get(money[2].strip().lower().rstrip("."))):
        return money[1] + money[3], unit
    if text.endswith("%"):
        return text[:-1].strip(), PERCENT
    if len(text) > MAX_CHARS:
        return None
    # From the left: of the phrases that are a unit the longest.
    found = _TAIL.search(text)
    while found is not None:
        if (split := _split_at(found)) is not None:
            return split
        found = _TAIL.search(text, found.start() + 1)
    return None


def _split_at(found: re.Match[str]) -> tuple[str, Unit | None] | None:
    head = found.string[: found.start()].strip()
    written = re.sub(r"\\text\{\s*([^{}]*)\}", r" \1 ", found[2]).strip(" .")
    if not written:
        return head, None
    if found[2].startswith("°") and not re.match(r"°\s*[CF]?$", written):
        return None
    unit = _unit(written, upright=found[2].startswith("\\text"), apart=bool(found[1]))
    if unit is None:
        return None
    return head, None if unit.dimensions == (("unit", 1),) else unit


def _unit(written: str, *, upright: bool, apart: bool) -> Unit | None:
    if re.fullmatch(r"°\s*C|degrees? Celsius", written, re.IGNORECASE):
        return _TABLE["celsius"]
    if re.fullmatch(r"°\s*F|degrees? Fahrenheit", written, re.IGNORECASE):
        return _TABLE["fahrenheit"]
    written = re.sub(r"\b(?:US|U\.S\.?) (?=dollar)", "", written)
    if written.lower() in ("percent", "per cent", "pct", "percentage"):
        return PERCENT
    factors: list[Unit] = []
    sign, power_ahead, words = 1, 1, 0
    for over, name, power in _FACTOR.findall(written):
        if over:
            sign = -1
            continue
        lowered = name.lower()
        if lowered in _POWERS:
            if factors and lowered in ("squared", "cubed"):
                factors[-1] = _raised(factors[-1], _POWERS[lowered])
            else:
                power_ahead = _POWERS[lowered]
            continue
        words += 1
        unit = _named(name, upright=upright, apart=apart or words > 1 or sign < 0)
        if unit is None:
            return None
        factors.append(_raised(unit, sign * int(power or 1) * power_ahead))
        power_ahead = 1
    if not factors:
        return None
    labels = [unit for unit in factors if unit.dimensions[0][0].startswith("label:")]
    if (
        len(labels) > 0
        and len(factors) > 1
        and sign > 0
        and not any(unit.dimensions[0][0] == "unit" for unit in factors)
    ):
        return Unit(Fraction(1), ((f"label:{' '.join(_singular(word.lower()) for word in written.split())}", 1),))
    if any(unit.dimensions[0][0] == "unit" for unit in factors):
        return Unit(Fraction(1), (("unit", 1),))
    return _product(factors)


def _named(name: str, *, upright: bool, apart: bool) -> Unit | None:
    """One name; None where it can't be one, as it is a variable or a function."""
    single = _singular(name.lower())
    if name.lower() in _NEUTRAL and (upright or len(name) > 1):
        return Unit(Fraction(1), (("unit", 1),))
    if len(name) == 1 and name.isalpha() and not upright:
        unit = _TABLE.get(name)
        return unit and Unit(unit.scale, unit.dimensions, is_sure=apart)
    if name == "%":
        return None
    known = _TABLE.get(name) or _TABLE.get(single) or _TABLE.get(name.lower())
    if known is not None:
        return known if upright or len(name) > 3 or name in _SHORT_WORDS or not name.isalpha() or apart else None
    if upright or (len(name) >= 3 and name.isalpha() and apart):
        return Unit(Fraction(1), ((f"label:{single}", 1),))
    return None


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        return word[:-1]
    return word
