r"""No text is ever evaluated as Python, and what the grammar does not know is not guessed.

Normal text to a tree: numbers, names, ``+ - * / ^ !``, roots, fractions, binomials, functions, bars and brackets. A
product needs no sign, ``-x^2`` is ``-(x^2)``, ``2^10`` is a power of ten, ``1\frac{4}{5}`` is a mixed number.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from rz_workers.reward.verifiers.robust.tokens import Token, UnreadableError, tokens

MAX_DEPTH = 60


@dataclass(frozen=True)
class Node:
    """``op`` of ``arguments``; ``number`` has a value, ``name`` a name, ``function`` a name and arguments."""

    op: str
    arguments: tuple[Node, ...] = ()
    value: Fraction = Fraction(0)
    name: str = ""


def number(value: Fraction | int) -> Node:
    return Node("number", value=Fraction(value))


def parse(text: str) -> Node:
    """Raises UnreadableError."""
    parser = _Parser(tokens(_mixed(text)))
    node = parser.sum(0)
    if parser.left():
        raise UnreadableError("more behind the end")
    return node


def _mixed(text: str) -> str:
    r"""``1 4/5`` as ``1\frac{4}{5}``."""
    return re.sub(r"(?<![\d.\w/^])(\d+)\s+(\d+)\s*/\s*(\d+)(?![\d.])", r"\1\\frac{\2}{\3}", text)


_CLOSING = {"(": ")", "[": "]", "{": "}", "⌊": "⌋", "⌈": "⌉", "|": "|"}
_AROUND = {"⌊": "floor", "⌈": "ceil", "|": "abs"}


class _Parser:
    def __init__(self, items: list[Token]) -> None:
        self._items, self._at, self._bars = items, 0, 0

    def left(self) -> bool:
        return self._at < len(self._items)

    def _peek(self) -> Token | None:
        return self._items[self._at] if self._at < len(self._items) else None

    def _sign(self) -> str:
        item = self._peek()
        return item.text if item and item.kind == "sign" else ""

    def _next(self) -> Token:
        item = self._peek()
        if item is None:
            raise UnreadableError("it ends too early")
        self._at += 1
        return item

    def _expect(self, sign: str) -> None:
        if self._next() != Token("sign", sign):
            raise UnreadableError(f"{sign} is missing")

    # ------------------------------------------------------------------------------------------- from loose to tight

    def sum(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")
        node = self._product(depth)
        while (sign := self._sign()) in ("+", "-"):
            self._at += 1
            right = self._product(depth)
            node = Node("+", (node, right if sign == "+" else Node("neg", (right,))))
        return node

    def _product(self, depth: int, *, of_function: bool = False) -> Node:
        node = self._signed(depth)
        while True:
            sign = self._sign()
            if sign in ("*", "/"):
                if of_function:
                    return node
                self._at += 1
                right = self._signed(depth)
                node = Node(sign, (node, right))
            elif self._starts_factor() and not (of_function and self._ends_argument()):
                before, after = self._items[self._at - 1], self._items[self._at]
                if after.kind in ("number", "repeating") and before.kind in ("number", "repeating", "name"):
                    raise UnreadableError("a number behind a number")
                whole = node.op == "number" and before.kind == "number" and node.value.denominator == 1
                right = self._power(depth)
                mixed = whole and after.text == "frac" and _is_proper(right)
                node = Node("+" if mixed else "*", (node, right))
            else:
                return node

    def _starts_factor(self) -> bool:
        item = self._peek()
        if item is None:
            return False
        if item.kind == "sign":
            return item.text in ("(", "[", "{", "⌊", "⌈", "∞") or (item.text == "|" and not self._bars)
        return True

    def _ends_argument(self) -> bool:
        r"""Of a function without brackets: ``\sin x \cos x``, ``\sin x e^x``, ``\ln x \sqrt{x}`` are products."""
        item, before = self._peek(), self._items[self._at - 1]
        if item == Token("name", "e") or item == Token("command", "sqrt"):
            return before.kind == "name"
        return item is not None and item.kind == "function"

    def _signed(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise UnreadableError("nested too deep")
        if (sign := self._sign()) in ("+", "-"):
            self._at += 1
            node = self._signed(depth + 1)
            # `-1\frac{1}{2}` is minus the mixed number; `_product` makes the mixed number of `1` alone
            if sign == "-" and node.op == "number" and self._mixed_follows(node):
                node = Node("+", (node, self._power(depth)))
            return Node("neg", (node,)) if sign == "-" else node
        return self._power(depth)

    def _mixed_follows(self, node: Node) -> bool:
        item, start = self._peek(), self._at
        if item != Token("command", "frac") or node.value.denominator != 1:
            return False
        found = _is_proper(self._power(0))
        self._at = start
        return found

    def _power(self, depth: int) -> Node:
        node = self._postfix(self._atom(depth))
        if self._sign() == "^":
            self._at += 1
            item = self._peek()
            exponent = self._signed(depth + 1) if item and item.text in ("-", "+") else self._power(depth + 1)
            node = self._postfix(Node("^", (node, exponent)))
        return node

    def _postfix(self, node: Node) -> Node:
        while (sign := self._sign()) in ("!", "°"):
            if sign == "°":
                self._at += 1
                node = Node("*", (node, Node("/", (Node("name", name="π"), number(180)))))
                continue
            if self._items[self._at + 1 : self._at + 2] == [Token("sign", "!")]:
                raise UnreadableError("a double factorial")
            self._at += 1
            node = Node(sign, (node,))
        return node

    # ------------------------------------------------------------------------------------------------ atoms

    def _atom(self, depth: int) -> Node:
        item = self._next()
        match item.kind:
            case "number":
                return number(_decimal(item.text))
            case "repeating":
                return number(repeating(item.text))
            case "name":
                return self._name(item.text)
            case "function":
                return self._function(item.text, depth)
            case "command":
                return self._command(item.text, depth)
        if item.text == "∞":
            return Node("infinity")
        if item.text not in _CLOSING:
            raise UnreadableError(item.text)
        self._bars += item.text == "|"
        inside = self.sum(depth + 1)
        self._bars -= item.text == "|"
        self._expect(_CLOSING[item.text])
        return Node("function", (inside,), name=_AROUND[item.text]) if item.text in _AROUND else inside

    def _name(self, letter: str) -> Node:
        if self._sign() == "_":
            self._at += 1
            letter += "_" + "".join(part.text for part in self._group())
        while self._sign() == "'":
            self._at += 1
            letter += "'"
        return Node("name", name=letter)

    def _group(self) -> list[Token]:
        """The tokens of a TeX group, or of the one token that stands in its place."""
        first = self._next()
        if first != Token("sign", "{"):
            return [first]
        out: list[Token] = []
        while (item := self._next()) != Token("sign", "}"):
            out.append(item)
        return out

    def _braced(self, depth: int) -> Node:
        r"""TeX's argument: a group, or one digit or letter: ``\frac12`` is a half, ``\frac9{19}`` nine nineteenths."""
        item = self._peek()
        if item and item.kind == "number" and len(item.text) > 1 and item.text.isdigit():
            self._items[self._at : self._at + 1] = [Token("number", item.text[0]), Token("number", item.text[1:])]
        return self._atom(depth + 1)

    def _command(self, command: str, depth: int) -> Node:
        if command == "frac":
            above, below = self._braced(depth), self._braced(depth)
            return Node("/", (above, below))
        if command == "binom":
            above, below = self._braced(depth), self._braced(depth)
            return Node("binom", (above, below))
        if command == "sqrt":
            return self._root(depth, self._braced)
        raise UnreadableError(command)

    def _root(self, depth: int, argument: object) -> Node:
        degree = number(2)
        if self._sign() == "[":
            self._at += 1
            degree = self.sum(depth + 1)
            self._expect("]")
        item = self._peek()
        under = self._power(depth) if item and item.kind == "number" else self._braced(depth)
        return Node("root", (under, degree))

    def _function(self, name: str, depth: int) -> Node:
        if name == "sqrt":
            return self._root(depth, None)
        base, power = None, None
        while (sign := self._sign()) in ("^", "_"):
            self._at += 1
            inner = self._signed(depth + 1) if self._sign() == "-" else self._atom(depth + 1)
            base, power = (inner, power) if sign == "_" else (base, inner)
        if self._sign() in ("(", "[", "{", "|"):
            argument = self._postfix(self._atom(depth + 1))
            if self._sign() == "^" and power is None:
                self._at += 1
                power = self._signed(depth + 1)
        else:
            argument = self._product(depth + 1, of_function=True)
        if power is not None and power == Node("neg", (number(1),)):
            name, power = f"arc{name}", None
        arguments = (argument,) if base is None else (argument, base)
        node = Node("function", arguments, name=name)
        return node if power is None else Node("^", (node, power))


def _is_proper(node: Node) -> bool:
    """Whether it is a fraction of whole numbers below 1."""
    if node.op != "/" or any(part.op != "number" or part.value.denominator != 1 for part in node.arguments):
        return False
    return 0 < node.arguments[0].value < node.arguments[1].value


def _decimal(text: str) -> Fraction:
    mantissa, _, exponent = text.lower().partition("e")
    if abs(int(exponent or 0)) > 4000:
        raise UnreadableError("an exponent too large")
    return Fraction(mantissa) * Fraction(10) ** int(exponent or 0)


def repeating(text: str) -> Fraction:
    r"""``0.1\overline{6}`` or ``0.1(6)`` is one sixth."""
    whole, _, rest = text.partition(".")
    fixed, again = re.findall(r"\d+", f"0{rest.split(chr(92))[0].split('(')[0]}")[0][1:], re.findall(r"\d+", rest)[-1]
    scale = 10 ** len(fixed)
    return Fraction(int((whole or "0") + fixed), scale) + Fraction(int(again), scale * (10 ** len(again) - 1))


def endless(text: str) -> Fraction | None:
    """What digits before an ellipsis repeat for ever: ``0.1666`` a sixth. None unless a block stands there thrice, or
    one of three digits and more twice."""
    digits = text.partition(".")[2]
    for fixed in range(len(digits)):
        for length in range(1, (len(digits) - fixed) // 2 + 1):
            block = digits[fixed : fixed + length]
            times, cut = divmod(len(digits) - fixed, length)
            if digits[fixed:] == block * times + block[:cut] and times >= (2 if length > 2 else 3):
                whole, sign = text.partition(".")[0].lstrip("-"), -1 if text.startswith("-") else 1
                return sign * repeating(f"{whole or '0'}.{digits[:fixed]}({block})")
    return None
