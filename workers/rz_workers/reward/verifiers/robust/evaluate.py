"""A number is exact while it can be: only what is irrational or huge is computed to 50 digits.

Values of trees (``grammar``). Constants are compared as numbers; expressions with names are, by their values at fixed
points. Names are real there: a point at which either side is not real says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from math import comb, factorial
from typing import Any

from mpmath import MPContext

from rz_workers.reward.verifiers.robust.grammar import Node

DIGITS = 50
MAX_BITS = 100_000
"""Of an exact power."""
MAX_FACTORIAL = 5000
MAX_MAGNITUDE = 300
"""Bits in front of the point of an exponent, or of what a function is taken of: mpmath would compute all of them."""
Number = Any
"""Fraction, or mpf or mpc of a context of ours."""


class UndefinedError(ArithmeticError):
    """There is no value at this point."""


@cache
def context(digits: int) -> Any:
    made = MPContext()
    made.dps = digits
    return made


class Evaluator:
    """Values to ``digits`` digits; ``log_base``: of a logarithm without one."""

    def __init__(self, digits: int = DIGITS, log_base: int | None = None) -> None:
        self.mp = context(digits)
        self._log_base = log_base

    def value(self, node: Node, names: Mapping[str, Fraction]) -> Number:
        """Raises UndefinedError."""
        try:
            return self._value(node, names)
        except (ArithmeticError, ValueError, TypeError) as error:
            raise UndefinedError(str(error)) from None

    def _value(self, node: Node, names: Mapping[str, Fraction]) -> Number:
        if node.op == "number":
            return node.value
        if node.op == "name":
            return self._name(node.name, names)
        if node.op == "infinity":
            raise UndefinedError("infinity")
        arguments = [self._value(each, names) for each in node.arguments]
        match node.op:
            case "+":
                return self._both(arguments[0], arguments[1], lambda a, b: a + b)
            case "*":
                return self._both(arguments[0], arguments[1], lambda a, b: a * b)
            case "/":
                if arguments[1] == 0:
                    raise UndefinedError("divided by zero")
                return self._both(arguments[0], arguments[1], lambda a, b: a / b)
            case "neg":
                return -arguments[0]
            case "^":
                return self._power(arguments[0], arguments[1])
            case "root":
                return self._root(arguments[0], arguments[1])
            case "!":
                return self._factorial(arguments[0])
            case "binom":
                return self._binom(arguments[0], arguments[1])
        return self._function(node.name, arguments)

    def _name(self, name: str, names: Mapping[str, Fraction]) -> Number:
        if name in names:
            return names[name]
        match name:
            case "π":
                return +self.mp.pi
            case "e":
                return +self.mp.e
            case "i":
                return self.mp.mpc(0, 1)
        raise UndefinedError(name)

    def inexact(self, value: Number) -> Number:
        return self.mp.mpf(value.numerator) / value.denominator if isinstance(value, Fraction) else value

    def _moderate(self, value: Number) -> Number:
        """Inexact, and refused where it is huge."""
        value = self.inexact(value)
        if value != 0 and not self.mp.mag(value) <= MAX_MAGNITUDE:
            raise UndefinedError("too large")
        return value

    def _both(self, left: Number, right: Number, combine: Any) -> Number:
        if isinstance(left, Fraction) and isinstance(right, Fraction):
            out = combine(left, right)
            return out if _bits(out) <= 4 * MAX_BITS else self.inexact(out)
        return combine(self.inexact(left), self.inexact(right))

    def _power(self, base: Number, exponent: Number) -> Number:
        if isinstance(base, Fraction) and isinstance(exponent, Fraction):
            if base == 0 and exponent < 0:
                raise UndefinedError("divided by zero")
            if exponent.denominator == 1:
                if _bits(base) * abs(exponent) <= MAX_BITS:
                    return base ** int(exponent)
            elif base >= 0:
                return self._power(self._root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
        return self.mp.power(self.inexact(base), self._moderate(exponent))

    def _root(self, under: Number, degree: Number) -> Number:
        """Odd roots of negative numbers are real."""
        if not isinstance(degree, Fraction) or degree.denominator != 1 or not 0 < degree <= 1000:
            return self._power(under, self._both(Fraction(1), degree, lambda a, b: a / b))
        count = int(degree)
        if isinstance(under, Fraction):
            if under < 0 and count % 2:
                return -self._root(-under, degree)
            if under >= 0:
                above, below = _whole_root(under.numerator, count), _whole_root(under.denominator, count)
                if above is not None and below is not None:
                    return Fraction(above, below)
        value = self.inexact(under)
        if count % 2 and self.mp.im(value) == 0 and self.mp.re(value) < 0:
            return -self.mp.root(-self.mp.re(value), count)
        return self.mp.root(value, count)

    def _factorial(self, value: Number) -> Number:
        if isinstance(value, Fraction) and value.denominator == 1 and 0 <= value <= MAX_FACTORIAL:
            return Fraction(factorial(int(value)))
        return self.mp.factorial(self._moderate(value))

    def _binom(self, above: Number, below: Number) -> Number:
        exact = isinstance(above, Fraction) and isinstance(below, Fraction)
        if exact and above.denominator == below.denominator == 1 and 0 <= below <= above <= MAX_FACTORIAL:
            return Fraction(comb(int(above), int(below)))
        return self.mp.binomial(self._moderate(above), self._moderate(below))

    def _function(self, name: str, arguments: list[Number]) -> Number:
        mp, (x, *more) = self.mp, arguments
        if isinstance(x, Fraction) and name in ("abs", "floor", "ceil"):
            return abs(x) if name == "abs" else Fraction(x.__floor__() if name == "floor" else x.__ceil__())
        if name in ("log", "ln", "lg"):
            base = more[0] if more else {"ln": None, "lg": Fraction(10)}.get(name, self._fraction(self._log_base))
            return self._logarithm(x, base)
        if name not in _FUNCTIONS or more:
            raise UndefinedError(name)
        return getattr(mp, _FUNCTIONS[name])(self._moderate(x))

    def _fraction(self, base: int | None) -> Fraction | None:
        return None if base is None else Fraction(base)

    def _logarithm(self, x: Number, base: Number | None) -> Number:
        if x == 0 or base in (0, 1):
            raise UndefinedError("a logarithm of nought")
        natural = self.mp.log(self.inexact(x))
        return natural if base is None else natural / self.mp.log(self.inexact(base))


_PLAIN = "sin cos tan cot sec csc sinh cosh tanh exp cbrt floor ceil asin acos atan"
_FUNCTIONS = {name: name for name in _PLAIN.split()} | {"abs": "fabs"}
_FUNCTIONS |= {f"arc{name}": f"a{name}" for name in _PLAIN.split()[:9]}
_FUNCTIONS |= {"arsinh": "asinh", "arcosh": "acosh", "artanh": "atanh"}
"""Our names to mpmath's."""


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _whole_root(value: int, degree: int) -> int | None:
    """The whole number whose power of ``degree`` it is, if there is one."""
    if value in (0, 1):
        return value
    if value.bit_length() > 4000:
        return None
    low, high = 1, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high) // 2
        if middle**degree < value:
            low = middle + 1
        else:
            high = middle
    return low if low**degree == value else None
