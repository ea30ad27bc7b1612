"""What holds of ``robust`` for any text: another form of a value is equal, a near miss is not, either way round."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from rz_workers.reward.verifiers.robust.verifier import decide

SETTINGS = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)


def never(answer: str, reference: str) -> bool:
    """A library that must not be needed."""
    raise AssertionError(f"asked of {answer!r} and {reference!r}")


def unequal(answer: str, reference: str) -> bool:
    """A library that reads nothing."""
    return False


def same(one: str, other: str) -> bool:
    """The verdict, the same either way round, without the library."""
    there, back = decide(one, other, never), decide(other, one, never)
    assert there[0] == back[0], (one, other, there, back)
    return there[0]


integers = st.integers(-(10**12), 10**12)
fractions = st.fractions(min_value=-1000, max_value=1000, max_denominator=60)


def with_separators(separator: str) -> object:
    return lambda n: f"{n:,}".replace(",", separator)


INTEGER_FORMS = {
    "plain": str,
    "a thousands comma": with_separators(","),
    "a thin space": with_separators(r"\,"),
    "a space": with_separators(" "),
    "a braced comma": with_separators("{,}"),
    "a comma and a negative space": with_separators(r",\!"),
    "a narrow space": with_separators("\u202f"),
    "a full stop behind": lambda n: f"{n}.",
    "dollars around": lambda n: f"${n}$",
    "bold": lambda n: f"**{n}**",
    "LaTeX's bold": lambda n: rf"\mathbf{{{n}}}",
    "upright": lambda n: rf"\text{{{n}}}",
    "a sign before the digits": lambda n: f"{n:+d}",
    "a long minus": lambda n: str(n).replace("-", "−"),
    "a decimal point": lambda n: f"{n}.0",
    "full-width digits": lambda n: "".join(chr(ord(c) + 0xFEE0) if c.isdigit() else c for c in str(n)),
    "named": lambda n: f"x = {n}",
    "a sentence": lambda n: f"The answer is {n}.",
    "a set of one": lambda n: rf"\{{{n}\}}",
    "over one": lambda n: rf"\frac{{{n}}}{{1}}",
    "half of twice": lambda n: rf"\frac{{{2 * n}}}{{2}}",
    "less one": lambda n: f"{n + 1} - 1",
    "a unit": lambda n: rf"{n}\text{{ cm}}",
}


@pytest.mark.parametrize("form", INTEGER_FORMS.values(), ids=INTEGER_FORMS.keys())
@SETTINGS
@given(n=integers)
def test_an_integer_in_another_form_is_itself_and_no_other(form, n: int) -> None:  # type: ignore[no-untyped-def]
    assert same(form(n), str(n))
    assert not same(form(n), str(n + 1))


FRACTION_FORMS = {
    "frac": lambda q: rf"\frac{{{q.numerator}}}{{{q.denominator}}}",
    "dfrac": lambda q: rf"\dfrac{{{q.numerator}}}{{{q.denominator}}}",
    "minus in front": lambda q: rf"{'-' if q < 0 else ''}\frac{{{abs(q.numerator)}}}{{{q.denominator}}}",
    "a slash": lambda q: f"{q.numerator}/{q.denominator}",
    "not in lowest terms": lambda q: rf"\frac{{{7 * q.numerator}}}{{{7 * q.denominator}}}",
    "a power": lambda q: rf"{q.numerator} \cdot {q.denominator}^{{-1}}",
    "a product": lambda q: rf"{q.numerator}\times\frac{{1}}{{{q.denominator}}}",
    "a root of its square": lambda q: (
        rf"{'-' if q < 0 else ''}\sqrt{{\frac{{{q.numerator**2}}}{{{q.denominator**2}}}}}"
    ),
}


@pytest.mark.parametrize("form", FRACTION_FORMS.values(), ids=FRACTION_FORMS.keys())
@SETTINGS
@given(q=fractions)
def test_a_fraction_in_another_form_is_itself_and_no_other(form, q: Fraction) -> None:  # type: ignore[no-untyped-def]
    assert same(form(q), str(q))
    assert not same(form(q), str(q + Fraction(1, 10**6)))


@SETTINGS
@given(mantissa=st.integers(1, 9999), exponent=st.integers(-30, 30))
def test_scientific_notation_is_the_number(mantissa: int, exponent: int) -> None:
    forms = [f"{mantissa}e{exponent}", rf"{mantissa}\times 10^{{{exponent}}}", f"{mantissa}·10^{exponent}"]
    for form in forms:
        assert same(form, str(Fraction(mantissa) * Fraction(10) ** exponent))
        assert not same(form, f"{mantissa}e{exponent + 1}")


numbers = st.lists(st.integers(-20, 20), min_size=2, max_size=5)


@SETTINGS
@given(items=numbers, data=st.data())
def test_order_counts_in_tuples_and_neither_in_lists_nor_in_sets(items: list[int], data: st.DataObject) -> None:
    other = data.draw(st.permutations(items))
    text, moved = ", ".join(map(str, items)), ",".join(map(str, other))
    assert same(text, moved)
    assert same(rf"\{{{text}\}}", rf"\{{{moved}\}}")
    assert same(f"({text})", f"({moved})") == (items == other)
    assert not same(text, f"{moved}, {items[0]}")
    assert same(rf"\{{{text}\}}", rf"\{{{moved}, {items[0]}\}}")


@SETTINGS
@given(low=st.integers(-50, 50), width=st.integers(1, 50), closed=st.tuples(st.booleans(), st.booleans()))
def test_an_interval_is_its_inequality(low: int, width: int, closed: tuple[bool, bool]) -> None:
    high = low + width
    left, right = ("<" if not each else r"\le" for each in closed)
    interval = f"{'[' if closed[0] else '('}{low}, {high}{']' if closed[1] else ')'}"
    forms = [rf"{low} {left} x {right} {high}", rf"x \in {interval}", rf"{2 * low} {left} 2x {right} {2 * high}",
             rf"\{{x : {low} {left} x {right} {high}\}}"]  # fmt: skip
    for form in forms:
        assert same(form, interval)
        assert not same(form, f"{interval[0]}{low}, {high + 1}{interval[-1]}")
        assert not same(form, f"{'(' if closed[0] else '['}{low}, {high}{interval[-1]}")


small = st.integers(-9, 9).filter(bool)


@SETTINGS
@given(a=small, b=small, c=small, factor=small)
def test_an_equation_is_its_multiples(a: int, b: int, c: int, factor: int) -> None:
    line = f"{a}x + {b}y = {c}".replace("+ -", "- ")
    assert same(line, f"{factor * a}x + {factor * b}y = {factor * c}".replace("+ -", "- "))
    assert same(line, f"{-c} = {-b}y + {-a}x".replace("+ -", "- "))
    assert not same(line, f"{a}x + {b}y = {c + 1}".replace("+ -", "- "))


@SETTINGS
@given(a=small, b=small, c=small)
def test_a_polynomial_is_its_other_forms(a: int, b: int, c: int) -> None:
    expanded = f"{a}x^2 + {a * (b + c)}x + {a * b * c}".replace("+ -", "- ")
    assert same(rf"{a}(x+{b})(x+{c})".replace("+-", "-"), expanded)
    assert not same(rf"{a}(x+{b})(x+{c + 1})".replace("+-", "-"), expanded)


words = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=4, max_size=10)


@SETTINGS
@given(word=words, data=st.data())
def test_words_are_compared_as_words(word: str, data: st.DataObject) -> None:
    moved = "".join(data.draw(st.permutations(word)))
    assert same(rf"\text{{{word}}}", f"**{word}**.")
    assert decide(word, moved, unequal)[0] == (word.casefold() == moved.casefold())


@SETTINGS
@given(n=st.integers(0, 10**6), base=st.integers(2, 16))
def test_a_base_counts(n: int, base: int) -> None:
    digits, left = "", n
    while left:
        digits, left = "0123456789ABCDEF"[left % base] + digits, left // base
    digits = digits or "0"
    assert same(f"{digits}_{{{base}}}", f"{digits.lower()} (base {base})")
    assert not same(f"{digits}_{{{base}}}", f"{digits}_{{{base + 1}}}")


hostile = st.text(r"""0123456789abxyzABC\{}[]()^_+-*/=<>|,.!%$° √½πie…∈∪±:;'"&~`#@fracsqrttext""", max_size=40)


@settings(SETTINGS, max_examples=1500)
@given(answer=st.one_of(hostile, st.text(max_size=30)), reference=st.one_of(hostile, st.text(max_size=30)))
@example("2^{200000}", "1")  # beyond MAX_BITS
@example(r"\frac{1}{0}", "1")
@example("(" * 3000, "1")
@example("-" * 3000 + "1", "1")
@example(r"\sqrt" * 1000, "1")
@example("1" * 5000, "1" * 5000 + "0")
@example("{" * 2000 + "1" + "}" * 2000, "1")
def test_no_text_makes_it_raise_and_it_is_the_same_either_way_round(answer: str, reference: str) -> None:
    there, back = decide(answer, reference, unequal)[0], decide(reference, answer, unequal)[0]
    assert there == back
    assert decide(answer, answer, unequal)[0] == bool(answer.strip())
