"""As much of CEL as the CRD's rules use, so that each expression is held to the same table as its predicate.

Deliberately stricter than CEL: reading an absent field is an error even where CEL's ``||`` would absorb it. Types, cost
limits and the language itself are judged by a real API server (tests/apiserver).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKEN = re.compile(r"\s*(?:(\d+\.?\d*(?:e[-+]?\d+)?)|('[^']*')|(\w+)|(\|\||&&|[=!<>]=|[-+*/%<>!?:.,()\[\]]))")
_LEVELS = (("||",), ("&&",), ("==", "!=", "<", "<=", ">", ">=", "in"), ("+", "-"), ("*", "/", "%"))
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "in": lambda a, b: a in b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "%": lambda a, b: a % b,
}
_METHODS: dict[str, Callable[..., Any]] = {
    "startsWith": str.startswith,
    "contains": str.__contains__,
    "indexOf": str.find,
    "lastIndexOf": str.rfind,
    "size": len,
    "matches": lambda text, pattern: re.search(pattern, text) is not None,
}
_MACROS: dict[str, Callable[[list[bool]], bool]] = {"all": all, "exists_one": lambda found: sum(found) == 1}

Lazy = Callable[[Mapping[str, Any]], Any]


class AbsentError(Exception):
    """The expression read a field that is not there: an error on the API server."""


def evaluate(expression: str, **variables: Any) -> Any:
    """The value of ``expression``. Raises AbsentError; SyntaxError for what is not CEL, or is not known here."""
    parser = _Parser(expression)
    result = parser.ternary()
    if parser.tokens:
        raise SyntaxError(f"left over: {parser.tokens} of {expression}")
    return result(variables)


class _Parser:
    def __init__(self, expression: str):
        self.tokens: list[str] = []
        position = 0
        while position < len(expression.rstrip()):
            match = _TOKEN.match(expression, position)
            if match is None:
                raise SyntaxError(f"no token at {expression[position:]}")
            self.tokens.append(match[0].strip())
            position = match.end()

    def take(self, *wanted: str) -> str | None:
        return self.tokens.pop(0) if self.tokens and self.tokens[0] in wanted else None

    def expect(self, wanted: str) -> None:
        if self.take(wanted) is None:
            raise SyntaxError(f"{wanted} expected before {self.tokens}")

    def ternary(self) -> Lazy:
        condition = self.binary(0)
        if self.take("?") is None:
            return condition
        yes = self.binary(0)
        self.expect(":")
        no = self.ternary()
        return lambda scope: yes(scope) if condition(scope) else no(scope)

    def binary(self, level: int) -> Lazy:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while (operator := self.take(*_LEVELS[level])) is not None:
            left = _join(operator, left, self.binary(level + 1))
        return left

    def unary(self) -> Lazy:
        if self.take("!"):
            inner = self.unary()
            return lambda scope: not inner(scope)
        return self.member(self.primary())

    def primary(self) -> Lazy:
        if self.take("("):
            inner = self.ternary()
            self.expect(")")
            return inner
        if self.take("["):
            items = self.arguments("]")
            return lambda scope: [item(scope) for item in items]
        token = self.tokens.pop(0)
        if token == "has":
            self.expect("(")
            field = self.ternary()
            self.expect(")")
            if not isinstance(field, _Field):
                raise SyntaxError("has() takes a field")
            return field.present
        if token.startswith("'"):
            return lambda scope: token[1:-1]
        if token[0].isdigit():
            return lambda scope: float(token) if {".", "e"} & set(token) else int(token)
        if token in ("true", "false"):
            return lambda scope: token == "true"
        return lambda scope: scope[token]

    def member(self, target: Lazy) -> Lazy:
        while self.take("."):
            name = self.tokens.pop(0)
            target = self.call(target, name) if self.take("(") else _Field(target, name)
        return target

    def call(self, target: Lazy, name: str) -> Lazy:
        if name in _MACROS:
            variable = self.tokens.pop(0)
            self.expect(",")
            body = self.ternary()
            self.expect(")")
            return lambda scope: _MACROS[name]([body({**scope, variable: item}) for item in target(scope)])
        arguments, method = self.arguments(")"), _METHODS[name]
        return lambda scope: method(target(scope), *(argument(scope) for argument in arguments))

    def arguments(self, closing: str) -> list[Lazy]:
        found: list[Lazy] = []
        while self.take(closing) is None:
            if found:
                self.expect(",")
            found.append(self.ternary())
        return found


def _join(operator: str, left: Lazy, right: Lazy) -> Lazy:
    if operator == "||":
        return lambda scope: left(scope) or right(scope)
    if operator == "&&":
        return lambda scope: left(scope) and right(scope)
    return lambda scope: _OPERATORS[operator](left(scope), right(scope))


class _Field:
    """Reading ``target.name``; ``has`` asks it whether the name is there, and needs the target all the same."""

    def __init__(self, target: Lazy, name: str):
        self.target, self.name = target, name

    def __call__(self, scope: Mapping[str, Any]) -> Any:
        if not self.present(scope):
            raise AbsentError(self.name)
        return self.target(scope)[self.name]

    def present(self, scope: Mapping[str, Any]) -> bool:
        return self.name in self.target(scope)
